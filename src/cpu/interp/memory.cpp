// husk: the software CPU's memory accesses that the in-line TLB does not answer
#include <algorithm>

#include "cpu/interp/block_cache.h"
#include "cpu/interp/core.h"
#include "cpu/interp/tag_search.h"
#include "mem/guest_bytes.h"

namespace husk::cpu::interp {

bool Core::segment_access(unsigned seg, std::uint64_t ea, unsigned size, AccessKind kind, std::uint64_t& linear) {
  const std::uint8_t vector = seg == kSs ? kSS_ : kGP;
  if (code64()) {
    linear = ea + (seg >= kFs ? s.seg[seg].base : 0);
    if (!canonical(linear) || !canonical(linear + size - 1)) {
      (void)raise(vector, 0);
      return false;
    }
  } else {
    const Segment& segment = s.seg[seg];
    const bool checked = s.protected_mode() && !s.v86();
    const bool usable = !checked || segment.present();
    const bool allowed = !checked || (kind == AccessKind::write ? segment.writable_data() : segment.readable());
    const std::uint64_t last = ea + size - 1;
    bool inside;
    if (checked && segment.expand_down()) {
      const std::uint64_t top = segment.big() ? 0xFFFFFFFF : 0xFFFF;
      inside = ea > segment.limit && last <= top;
    } else {
      // An operand that wraps at 4 GiB inside a flat segment faults, as it does on AMD's processors; the SDM (vol. 3, 5.3)
      // leaves it open.
      inside = last <= segment.limit;
    }
    if (!usable || !allowed || !inside) {
      (void)raise(vector, 0);
      return false;
    }
    linear = static_cast<std::uint32_t>(segment.base + ea);
  }
  if (cpl_ == 3 && (s.cr0 & kCr0Am) && (s.rflags & kAC) && size > 1 && size <= 8 && linear % size) {
    (void)raise(kACheck, 0);
    return false;
  }
  return true;
}

bool Core::aligned_or_fault(unsigned seg, std::uint64_t ea, std::size_t size) {
  const std::uint64_t base = code64() ? (seg >= kFs ? s.seg[seg].base : 0) : s.seg[seg].base;
  if ((base + ea) % size == 0) return true;
  (void)raise_gp();
  return false;
}

namespace {
std::uint16_t host_tag(const std::uint8_t* host_page) {
  return static_cast<std::uint16_t>(reinterpret_cast<std::uintptr_t>(host_page) / mem::kPageSize);
}
}  // namespace

void Core::fill_tlb(std::uint64_t linear, const Translation& t, AccessKind, bool user) {
  const std::uint64_t gpa_page = align_down(t.gpa & a20_mask_, mem::kPageSize);
  const mem::Target target = deps_.memory.find(gpa_page);
  if (!target.ram || target.length < mem::kPageSize) return;
  const std::uint64_t page = align_down(linear, mem::kPageSize);
  const std::uint64_t tag = page | pcid_;
  TlbEntry& entry = tlb_[mmu_index_for(user)][tlb_index(linear)];
  std::uint64_t write_tag = kInvalidTag;
  if (t.writable && target.writable) {
    const std::uint8_t flags = target.ram->page_flags(target.offset);
    write_tag = flags == 0 ? tag : flags == mem::RamRegion::kHasCode ? page ^ kOnlyCodeForbids : kInvalidTag;
  }
  tlb_host_tags_[mmu_index_for(user)][tlb_index(linear)] = host_tag(target.ram->data() + target.offset);
  entry = {tag, write_tag,
           reinterpret_cast<std::uintptr_t>(target.ram->data() + target.offset) - page, t.global};
}

bool Core::translate_cached(std::uint64_t linear, AccessKind kind, bool user, std::uint64_t& gpa) {
  Translation t;
  if (!translate(linear, kind, user, t)) return false;
  fill_tlb(linear, t, kind, user);
  gpa = t.gpa;
  return true;
}

bool Core::physical_access(std::uint64_t gpa, std::uint8_t* data, unsigned size, AccessKind kind) {
  gpa &= a20_mask_;
  const mem::Target target = deps_.memory.find(gpa);
  if (target.ram && target.length >= size) {
    std::uint8_t* const host = target.ram->data() + target.offset;
    if (kind != AccessKind::write) {
      mem::copy_guest_bytes(data, host, size);
    } else if (target.writable) {
      mem::copy_guest_bytes(host, data, size);
      target.ram->note_write(target.offset, size);
    }
    return true;
  }
  const auto who = mem::Requester::cpu(deps_.index);
  for (unsigned done = 0; done < size;) {
    const unsigned piece = std::bit_floor(std::min(size - done, 8u));
    const bool write = kind == AccessKind::write;
    std::uint64_t value = 0;
    if (write) {
      for (unsigned i = 0; i < piece; ++i) value |= std::uint64_t{data[done + i]} << (i * 8);
      deps_.memory.write(who, gpa + done, value, piece);
    } else {
      value = deps_.memory.read(who, gpa + done, piece);
      for (unsigned i = 0; i < piece; ++i) data[done + i] = static_cast<std::uint8_t>(value >> (i * 8));
    }
    if (trace_mask & TraceSink::kMmio) trace->mmio(*this, write, gpa + done, piece, value);
    done += piece;
  }
  return true;
}

bool Core::access_linear(std::uint64_t linear, std::uint8_t* data, unsigned size, AccessKind kind, bool user) {
  // Not linear_mask_: descriptor tables may lie above 4 GiB while compatibility-mode code runs.
  const std::uint64_t mask = s.long_mode_active() ? ~std::uint64_t{0} : 0xFFFFFFFF;
  linear &= mask;
  const auto in_page = static_cast<unsigned>(mem::kPageSize - (linear & 0xFFF));
  std::uint64_t gpa = 0;
  if (size <= in_page) {
    const TlbEntry& entry = tlb_[mmu_index_for(user)][tlb_index(linear)];
    const std::uint64_t tag = (linear & ~std::uint64_t{0xFFF}) | pcid_;
    if (kind != AccessKind::write && entry.read_tag == tag) {
      mem::copy_guest_bytes(data, reinterpret_cast<const void*>(entry.addend + linear), size);
      return true;
    }
    if (kind == AccessKind::write && entry.write_tag == tag) {
      mem::copy_guest_bytes(reinterpret_cast<void*>(entry.addend + linear), data, size);
      return true;
    }
  }
  if (size <= in_page) return translate_cached(linear, kind, user, gpa) && physical_access(gpa, data, size, kind);
  // Both pages must be accessible before either is touched.
  std::uint64_t second = 0;
  if (!translate_cached(linear, kind, user, gpa) || !translate_cached((linear + in_page) & mask, kind, user, second))
    return false;
  return physical_access(gpa, data, in_page, kind) && physical_access(second, data + in_page, size - in_page, kind);
}

void Core::check_watch(std::uint64_t linear, unsigned size, AccessKind kind) {
  const bool write = kind == AccessKind::write;
  for (unsigned i = 0; i < 4; ++i) {
    if (!bits(s.dr7, i * 2, 2)) continue;
    const auto type = bits(s.dr7, 16 + i * 4, 2);
    if (type != 3 && !(type == 1 && write)) continue;
    // LEN encodes 1, 2, 8, 4 bytes; the address is aligned to it (SDM vol. 3, 18.2.4-5).
    static constexpr std::uint64_t kLengths[] = {1, 2, 8, 4};
    const std::uint64_t length = kLengths[bits(s.dr7, 18 + i * 4, 2)];
    const std::uint64_t start = align_down(s.dr[i], length);
    if (linear < start + length && start < linear + size) {
      s.pending_debug |= std::uint64_t{1} << i;
      leave_block_ = true;
    }
  }
  for (const auto& watch : debug.watchpoints)
    if ((write ? watch.write : watch.read) && linear < watch.address + watch.length && watch.address < linear + size) {
      watch_hit_ = true;
      debug_hit_address = watch.address;
      leave_block_ = true;
    }
}

bool Core::load_slow(unsigned seg, std::uint64_t ea, std::uint8_t* data, unsigned size) {
  std::uint64_t linear;
  if (!segment_access(seg, ea, size, AccessKind::read, linear) ||
      !access_linear(linear, data, size, AccessKind::read, cpl_ == 3))
    return false;
  if (watch_active_) [[unlikely]]
    check_watch(linear, size, AccessKind::read);
  return true;
}

bool Core::store_slow(unsigned seg, std::uint64_t ea, const std::uint8_t* data, unsigned size) {
  std::uint64_t linear;
  std::uint8_t copy[64];
  std::memcpy(copy, data, size);
  if (!segment_access(seg, ea, size, AccessKind::write, linear) ||
      !access_linear(linear, copy, size, AccessKind::write, cpl_ == 3))
    return false;
  if (watch_active_) [[unlikely]]
    check_watch(linear, size, AccessKind::write);
  return true;
}

bool Core::probe(unsigned seg, std::uint64_t ea, unsigned size, AccessKind kind) {
  std::uint64_t linear, gpa;
  if (!segment_access(seg, ea, size, kind, linear)) return false;
  if (!translate_cached(linear, kind, cpl_ == 3, gpa)) return false;
  const std::uint64_t last = (linear + size - 1) & linear_mask_;
  return (last >> 12) == (linear >> 12) || translate_cached(align_down(last, mem::kPageSize), kind, cpl_ == 3, gpa);
}

bool Core::modify_slow(unsigned seg, std::uint64_t ea, unsigned size, bool locked,
                       const std::function<std::uint64_t(std::uint64_t)>& change) {
  if (!probe(seg, ea, size, AccessKind::write)) return false;
  std::uint8_t raw[8] = {};
  std::uint64_t linear;
  if (!segment_access(seg, ea, size, AccessKind::write, linear) ||
      !access_linear(linear, raw, size, AccessKind::read, cpl_ == 3))
    return false;
  // A locked access must be one access to the other CPUs too, where the host can make one. MMIO accesses that are
  // locked are not atomic here.
  if (!(locked && exchange_locked(linear, size, change))) {
    store_le<std::uint64_t>(raw, change(load_le<std::uint64_t>(raw)));
    if (!access_linear(linear, raw, size, AccessKind::write, cpl_ == 3)) return false;
  }
  if (watch_active_) [[unlikely]] {
    check_watch(linear, size, AccessKind::read);
    check_watch(linear, size, AccessKind::write);
  }
  return true;
}

namespace {
/// Replaces *at by change(*at) in one access for all CPUs of the host. `at` may be misaligned, on x86 only.
template <class T>
void exchange_at(std::uint8_t* at, const std::function<std::uint64_t(std::uint64_t)>& change) {
#if defined(__x86_64__)
  T old;
  mem::copy_guest_bytes(&old, at, sizeof old);
  for (bool done = false; !done;) {
    const T value = static_cast<T>(change(old));
    asm volatile("lock cmpxchg %[value], %[at]"
                 : [at] "+m"(*reinterpret_cast<char(*)[sizeof(T)]>(at)), "+a"(old), "=@ccz"(done)
                 : [value] "q"(value)
                 : "memory");
  }
#else
  T* const aligned = reinterpret_cast<T*>(at);
  T old = __atomic_load_n(aligned, __ATOMIC_SEQ_CST);
  while (!__atomic_compare_exchange_n(aligned, &old, static_cast<T>(change(old)), false, __ATOMIC_SEQ_CST,
                                      __ATOMIC_SEQ_CST)) {
  }
#endif
}
}  // namespace

std::uint8_t* Core::writable_ram(std::uint64_t linear, unsigned size, mem::Target& target) {
  std::uint64_t gpa;
  if (!translate_cached(linear, AccessKind::write, cpl_ == 3, gpa)) return nullptr;
  target = deps_.memory.find(gpa & a20_mask_);
  if (!target.ram || !target.writable || target.length < size) return nullptr;
  return target.ram->data() + target.offset;
}

bool Core::exchange_locked(std::uint64_t linear, unsigned size, const std::function<std::uint64_t(std::uint64_t)>& change) {
  if constexpr (std::endian::native != std::endian::little) return false;
#if !defined(__x86_64__)
  // There CPUs take turns: nobody can come in between.
  if (linear % size != 0) return false;
#endif
  const unsigned first = std::min(size, static_cast<unsigned>(mem::kPageSize - linear % mem::kPageSize));
  mem::Target low, high;
  std::uint8_t* const at = writable_ram(linear, first, low);
  if (!at) return false;
  std::uint8_t* const rest = first == size ? at + first : writable_ram((linear + first) & linear_mask_, size - first, high);
  if (!rest) return false;
  if (rest == at + first) {
    switch (size) {
      case 1: exchange_at<std::uint8_t>(at, change); break;
      case 2: exchange_at<std::uint16_t>(at, change); break;
      case 4: exchange_at<std::uint32_t>(at, change); break;
      default: exchange_at<std::uint64_t>(at, change); break;
    }
  } else {
    // No instruction of the host reaches both pages. Such accesses exclude each other, if nothing else.
    if (!split_lock_) return false;
    split_lock_([&] {
      std::uint8_t raw[8] = {};
      std::memcpy(raw, at, first);
      std::memcpy(raw + first, rest, size - first);
      store_le<std::uint64_t>(raw, change(load_le<std::uint64_t>(raw)));
      std::memcpy(at, raw, first);
      std::memcpy(rest, raw + first, size - first);
    });
  }
  low.ram->note_write(low.offset, first);
  if (first != size) high.ram->note_write(high.offset, size - first);
  return true;
}

bool Core::modify128(unsigned seg, std::uint64_t ea, bool locked,
                     const std::function<std::array<std::uint64_t, 2>(std::array<std::uint64_t, 2>)>& change) {
  std::uint64_t linear;
  std::uint8_t raw[16];
  if (!probe(seg, ea, 16, AccessKind::write) || !segment_access(seg, ea, 16, AccessKind::write, linear) ||
      !access_linear(linear, raw, 16, AccessKind::read, cpl_ == 3))
    return false;
  std::array<std::uint64_t, 2> old{load_le<std::uint64_t>(raw), load_le<std::uint64_t>(raw + 8)};
  bool done = false;
#if defined(__x86_64__)
  // With an engine the other CPUs run meanwhile, and theirs is the host's own instruction.
  mem::Target target;
  if (std::uint8_t* const at = locked && engine_ ? writable_ram(linear, 16, target) : nullptr) {
    while (!done) {
      const auto value = change(old);
      asm volatile("lock cmpxchg16b %[at]"
                   : [at] "+m"(*reinterpret_cast<char(*)[16]>(at)), "+a"(old[0]), "+d"(old[1]), "=@ccz"(done)
                   : "b"(value[0]), "c"(value[1])
                   : "memory");
    }
    target.ram->note_write(target.offset, 16);
  }
#endif
  if (!done) {
    const auto value = change(old);
    store_le<std::uint64_t>(raw, value[0]);
    store_le<std::uint64_t>(raw + 8, value[1]);
    if (!access_linear(linear, raw, 16, AccessKind::write, cpl_ == 3)) return false;
  }
  if (watch_active_) [[unlikely]]
    check_watch(linear, 16, AccessKind::write);
  return true;
}

std::uint8_t* Core::host_pointer(unsigned seg, std::uint64_t ea, unsigned size, AccessKind kind) {
  const std::uint64_t la = (ea + fast_[seg].base) & linear_mask_;
  const TlbEntry& entry = tlb_entry(la);
  const bool write = kind == AccessKind::write;
  const std::uint64_t end = write ? fast_[seg].write_end : fast_[seg].read_end;
  if (ea + (size - 1) >= end || (write ? entry.write_tag : entry.read_tag) != tag_of(la, size)) return nullptr;
  return reinterpret_cast<std::uint8_t*>(entry.addend + la);
}

std::uint64_t Core::io_read(std::uint16_t port, unsigned size) {
  const std::uint64_t value = deps_.io.read(mem::Requester::cpu(deps_.index), port, size);
  if (trace_mask & TraceSink::kIo) [[unlikely]]
    trace->io(*this, false, port, size, value);
  return value;
}

void Core::io_write(std::uint16_t port, unsigned size, std::uint64_t value) {
  if (trace_mask & TraceSink::kIo) [[unlikely]]
    trace->io(*this, true, port, size, value);
  deps_.io.write(mem::Requester::cpu(deps_.index), port, value, size);
}

bool Core::code_written(mem::RamRegion& ram, std::uint64_t offset, std::uint64_t length) {
  leave_block_ = true;
  const bool engine_done = !engine_ || engine_->code_written(ram, offset, length);
  return blocks_->written(ram, offset, length) && engine_done;
}

bool Core::drop_write_access() {
  for (auto& table : tlb_)
    for (TlbEntry& entry : table) entry.write_tag = kInvalidTag;
  if (engine_) engine_->write_access_dropped(nullptr);
  return true;
}

bool Core::drop_write_access(const std::uint8_t* host_page) {
  bool any = false;
  const std::uint16_t tag = host_tag(host_page);
  for (unsigned table = 0; table < kMmuCount; ++table)
    each_equal(tlb_host_tags_[table], tag, [&](std::size_t i) {
      TlbEntry& entry = tlb_[table][i];
      if (entry.write_tag == kInvalidTag ||
          entry.addend + (entry.write_tag & ~std::uint64_t{0xFFF}) != reinterpret_cast<std::uintptr_t>(host_page))
        return;
      entry.write_tag = kInvalidTag;
      any = true;
    });
  if (engine_) any |= engine_->write_access_dropped(host_page);
  return any;
}

void Core::request_code_written(mem::RamRegion& ram, std::uint64_t offset, std::uint64_t length) {
  {
    const std::lock_guard lock(page_requests_mutex_);
    page_requests_.push_back({&ram, offset, length});
  }
  signal(kAttentionPages);
}

void Core::request_drop_write_access(mem::RamRegion& ram, std::uint64_t page_offset) {
  {
    const std::lock_guard lock(page_requests_mutex_);
    page_requests_.push_back({&ram, page_offset, 0});
  }
  signal(kAttentionPages);
}

void Core::request_drop_write_access() {
  {
    const std::lock_guard lock(page_requests_mutex_);
    page_requests_.push_back({nullptr, 0, 0});
  }
  signal(kAttentionPages);
}

void Core::handle_page_requests() {
  std::vector<PageRequest> requests;
  {
    const std::lock_guard lock(page_requests_mutex_);
    requests.swap(page_requests_);
  }
  for (const PageRequest& request : requests) {
    if (!request.ram) {
      drop_write_access();
    } else if (request.length == 0) {
      if (drop_write_access(request.ram->data() + request.offset) && late_drop_) late_drop_(*request.ram, request.offset);
    } else if (code_written(*request.ram, request.offset, request.length) && page_forgotten_) {
      page_forgotten_(*request.ram, align_down(request.offset, mem::kPageSize));
    }
  }
}

}  // namespace husk::cpu::interp
