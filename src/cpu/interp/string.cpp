// husk: string instructions, one element at a time or in page-sized pieces
#include <algorithm>

#include "cpu/interp/operands.h"
#include "cpu/sem.h"
#include "mem/guest_bytes.h"

namespace husk::cpu::interp {
namespace {

/// The registers of a string instruction, cut to the address size.
class StringRegisters {
 public:
  StringRegisters(Core& core, const Insn& insn)
      : core_(core), mask_(mask_of(insn.addr_size * 8u)), word_(insn.addr_size == 2) {}
  std::uint64_t source() const { return core_.s.gpr[kRsi] & mask_; }
  std::uint64_t destination() const { return core_.s.gpr[kRdi] & mask_; }
  std::uint64_t count() const { return core_.s.gpr[kRcx] & mask_; }
  void advance_source(std::uint64_t by) { put(kRsi, core_.s.gpr[kRsi] + by); }
  void advance_destination(std::uint64_t by) { put(kRdi, core_.s.gpr[kRdi] + by); }
  void take(std::uint64_t elements) { put(kRcx, core_.s.gpr[kRcx] - elements); }
  std::uint64_t step(unsigned size) const {
    return (core_.s.rflags & kDF) ? std::uint64_t{0} - size : std::uint64_t{size};
  }

 private:
  void put(Gpr which, std::uint64_t value) {
    if (word_)
      core_.set_reg<2>(which, static_cast<std::uint16_t>(value));
    else
      core_.s.gpr[which] = value & mask_;
  }
  Core& core_;
  std::uint64_t mask_;
  bool word_;
};

/// Elements done before run() gets a chance to look at interrupts.
constexpr std::uint64_t kBurst = 4096;

/// Repeats `one` as REP asks. `bulk(registers, at_most)` may do several elements at once and says how many.
template <class One, class Bulk>
Flow repeat(Core& core, const Insn& insn, One&& one, Bulk&& bulk) {
  StringRegisters r(core, insn);
  if (insn.rep == RepPrefix::none) return one(r);
  for (std::uint64_t budget = core.one_iteration() ? 1 : kBurst; r.count() != 0;) {
    if (budget == 0) return Flow::repeat;
    std::uint64_t done = bulk(r, std::min(budget, r.count()));
    if (done == 0) {
      const Flow flow = one(r);
      if (flow != Flow::next) return flow;
      done = 1;
    }
    r.take(done);
    budget -= done;
    if (core.one_iteration() && r.count() != 0) return Flow::repeat;
  }
  return Flow::next;
}
constexpr auto kNoBulk = [](StringRegisters&, std::uint64_t) -> std::uint64_t { return 0; };

/// How many elements from `address` on stay in its page.
std::uint64_t elements_in_page(std::uint64_t linear, unsigned size) { return (4096 - (linear & 0xFFF)) / size; }

/// Host memory for up to `elements` upward from [seg:ea], if all of it is directly accessible; `elements` is cut.
template <unsigned N>
std::uint8_t* window(Core& core, const Insn& insn, unsigned seg, std::uint64_t ea, AccessKind kind,
                     std::uint64_t& elements) {
  const std::uint64_t base = core.code64() && seg < kFs ? 0 : core.s.seg[seg].base;
  // Offsets wrap at the address size, which the window must not run over.
  elements = std::min({elements, elements_in_page(base + ea, N), (mask_of(insn.addr_size * 8u) - ea) / N + 1});
  if (elements == 0) return nullptr;
  return core.host_pointer(seg, ea, static_cast<unsigned>(elements * N), kind);
}

template <unsigned N>
Flow movs(Core& core, const Insn& insn) {
  const auto one = [&](StringRegisters& r) {
    Uint<N> value;
    if (!core.load<Uint<N>>(insn.segment, r.source(), value) || !core.store<Uint<N>>(kEs, r.destination(), value))
      return Flow::fault;
    r.advance_source(r.step(N));
    r.advance_destination(r.step(N));
    return Flow::next;
  };
  return repeat(core, insn, one, [&](StringRegisters& r, std::uint64_t at_most) -> std::uint64_t {
    if (core.s.rflags & kDF) return 0;
    std::uint64_t elements = at_most;
    std::uint8_t* const from = window<N>(core, insn, insn.segment, r.source(), AccessKind::read, elements);
    if (!from) return 0;
    std::uint8_t* const to = window<N>(core, insn, kEs, r.destination(), AccessKind::write, elements);
    if (!to) return 0;
    const std::size_t bytes = elements * N;
    // An overlap with the destination ahead replicates a pattern element by element, which memmove would not.
    if (to > from && to < from + bytes) {
      for (std::size_t at = 0; at < bytes; at += N) mem::copy_guest_bytes(to + at, from + at, N);
    } else {
      mem::move_guest_bytes_down(to, from, bytes);
    }
    r.advance_source(bytes);
    r.advance_destination(bytes);
    return elements;
  });
}
template <unsigned N>
Flow stos(Core& core, const Insn& insn) {
  const Uint<N> value = core.reg<N>(kRax);
  const auto one = [&](StringRegisters& r) {
    if (!core.store<Uint<N>>(kEs, r.destination(), value)) return Flow::fault;
    r.advance_destination(r.step(N));
    return Flow::next;
  };
  return repeat(core, insn, one, [&](StringRegisters& r, std::uint64_t at_most) -> std::uint64_t {
    if (core.s.rflags & kDF) return 0;
    std::uint64_t elements = at_most;
    std::uint8_t* const to = window<N>(core, insn, kEs, r.destination(), AccessKind::write, elements);
    if (!to) return 0;
    if constexpr (N == 1) {
      mem::fill_guest_bytes(to, value, elements);
    } else {
      std::uint8_t wire[N];
      store_le<Uint<N>>(wire, value);
      for (std::uint64_t i = 0; i < elements; ++i) mem::copy_guest_bytes(to + i * N, wire, N);
    }
    r.advance_destination(elements * N);
    return elements;
  });
}
template <unsigned N>
Flow lods(Core& core, const Insn& insn) {
  const auto one = [&](StringRegisters& r) {
    Uint<N> value;
    if (!core.load<Uint<N>>(insn.segment, r.source(), value)) return Flow::fault;
    core.set_reg<N>(kRax, value);
    r.advance_source(r.step(N));
    return Flow::next;
  };
  return repeat(core, insn, one, kNoBulk);
}

/// CMPS and SCAS: `one` compares and sets flags; REPE/REPNE also stop by ZF. `skip(registers, at_most)` may pass over
/// elements that do not stop it, and says how many.
template <class One, class Skip>
Flow repeat_while(Core& core, const Insn& insn, One&& one, Skip&& skip) {
  StringRegisters r(core, insn);
  if (insn.rep == RepPrefix::none) return one(r);
  const bool wanted_zero = insn.rep == RepPrefix::rep;
  for (std::uint64_t budget = core.one_iteration() ? 1 : kBurst; r.count() != 0; --budget) {
    if (budget == 0) return Flow::repeat;
    if (budget > 1 && r.count() > 1 && !(core.s.rflags & kDF)) {
      // The last element is left to `one`, for the flags; so is the last one of what `skip` could see, since the next may
      // fault.
      const std::uint64_t passed = skip(r, std::min(budget, r.count()) - 1);
      if (passed != 0) r.take(passed);
      budget -= passed;
    }
    if (one(r) == Flow::fault) return Flow::fault;
    r.take(1);
    if (((core.s.rflags & kZF) != 0) != wanted_zero) break;
  }
  return Flow::next;
}
template <unsigned N>
Flow cmps(Core& core, const Insn& insn) {
  const auto one = [&](StringRegisters& r) {
    Uint<N> a, b;
    if (!core.load<Uint<N>>(insn.segment, r.source(), a) || !core.load<Uint<N>>(kEs, r.destination(), b))
      return Flow::fault;
    (void)alu::sub_borrow<Uint<N>>(a, b, false, core.s.rflags);
    r.advance_source(r.step(N));
    r.advance_destination(r.step(N));
    return Flow::next;
  };
  return repeat_while(core, insn, one, [&](StringRegisters& r, std::uint64_t at_most) -> std::uint64_t {
    std::uint64_t elements = at_most;
    const std::uint8_t* const a = window<N>(core, insn, insn.segment, r.source(), AccessKind::read, elements);
    if (!a) return 0;
    const std::uint8_t* const b = window<N>(core, insn, kEs, r.destination(), AccessKind::read, elements);
    if (!b) return 0;
    const bool while_equal = insn.rep == RepPrefix::rep;
    std::uint64_t passed = 0;
    while (passed < elements && (std::memcmp(a + passed * N, b + passed * N, N) == 0) == while_equal) ++passed;
    if (passed == elements) --passed;
    r.advance_source(passed * N);
    r.advance_destination(passed * N);
    return passed;
  });
}
template <unsigned N>
Flow scas(Core& core, const Insn& insn) {
  const auto one = [&](StringRegisters& r) {
    Uint<N> value;
    if (!core.load<Uint<N>>(kEs, r.destination(), value)) return Flow::fault;
    (void)alu::sub_borrow<Uint<N>>(core.reg<N>(kRax), value, false, core.s.rflags);
    r.advance_destination(r.step(N));
    return Flow::next;
  };
  return repeat_while(core, insn, one, [&](StringRegisters& r, std::uint64_t at_most) -> std::uint64_t {
    std::uint64_t elements = at_most;
    const std::uint8_t* const at = window<N>(core, insn, kEs, r.destination(), AccessKind::read, elements);
    if (!at) return 0;
    std::uint8_t wanted[N];
    store_le<Uint<N>>(wanted, core.reg<N>(kRax));
    const bool while_equal = insn.rep == RepPrefix::rep;
    std::uint64_t passed = 0;
    if (N == 1 && !while_equal) {
      const void* const found = std::memchr(at, wanted[0], elements);
      passed = found ? static_cast<std::uint64_t>(static_cast<const std::uint8_t*>(found) - at) : elements;
    } else {
      while (passed < elements && (std::memcmp(at + passed * N, wanted, N) == 0) == while_equal) ++passed;
    }
    if (passed == elements) --passed;
    r.advance_destination(passed * N);
    return passed;
  });
}
template <unsigned N>
Flow ins(Core& core, const Insn& insn) {
  constexpr unsigned kSize = N == 8 ? 4 : N;
  const std::uint16_t port = core.reg<2>(kRdx);
  if (!core.check_io_permission(port, kSize)) return Flow::fault;
  const auto one = [&](StringRegisters& r) {
    // The port must not be read if the store would fault.
    if (!core.probe(kEs, r.destination(), kSize, AccessKind::write)) return Flow::fault;
    const auto value = static_cast<Uint<kSize>>(core.io_read(port, kSize));
    if (!core.store<Uint<kSize>>(kEs, r.destination(), value)) return Flow::fault;
    r.advance_destination(r.step(kSize));
    return Flow::next;
  };
  return repeat(core, insn, one, kNoBulk);
}
template <unsigned N>
Flow outs(Core& core, const Insn& insn) {
  constexpr unsigned kSize = N == 8 ? 4 : N;
  const std::uint16_t port = core.reg<2>(kRdx);
  if (!core.check_io_permission(port, kSize)) return Flow::fault;
  const auto one = [&](StringRegisters& r) {
    Uint<kSize> value;
    if (!core.load<Uint<kSize>>(insn.segment, r.source(), value)) return Flow::fault;
    core.io_write(port, kSize, value);
    r.advance_source(r.step(kSize));
    return Flow::next;
  };
  return repeat(core, insn, one, kNoBulk);
}

}  // namespace

void bind_string(HandlerTable& t) {
  HUSK_BIND_SIZES(t, movs, movs<N>);
  HUSK_BIND_SIZES(t, stos, stos<N>);
  HUSK_BIND_SIZES(t, lods, lods<N>);
  HUSK_BIND_SIZES(t, cmps, cmps<N>);
  HUSK_BIND_SIZES(t, scas, scas<N>);
  HUSK_BIND_SIZES(t, ins, ins<N>);
  HUSK_BIND_SIZES(t, outs, outs<N>);
}

}  // namespace husk::cpu::interp
