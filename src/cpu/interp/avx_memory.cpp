// husk: AVX masked loads and stores, gathers
#include <algorithm>

#include "cpu/interp/vec_bind.h"
#include "cpu/interp/vec_block.h"

namespace husk::cpu::interp {
namespace {

template <class T>
constexpr bool top_bit(T value) {
  return value >> (sizeof(T) * 8 - 1);
}
/// Address of an element `offset` bytes into a memory operand: it wraps with the address size as the first one does.
std::uint64_t element_address(const Insn& insn, std::uint64_t ea, std::uint64_t offset) {
  ea += offset;
  if (insn.addr_size == 8) return ea;
  return insn.addr_size == 4 ? static_cast<std::uint32_t>(ea) : static_cast<std::uint16_t>(ea);
}

/// Elements whose mask is clear are not read and cannot fault; they become zero.
template <class T, unsigned N>
Flow masked_load_sized(Core& core, const Insn& insn) {
  const auto mask = lanes_of<T>(read_vector<N>(core, insn.vvvv));
  const std::uint64_t ea = core.effective_address(insn);
  Lanes<T, N> out{};
  for (unsigned i = 0; i < out.size(); ++i) {
    if (top_bit(mask[i]) && !core.load(insn.segment, element_address(insn, ea, i * sizeof(T)), out[i]))
      return Flow::fault;
  }
  write_vex(core, insn.reg, block_of(out));
  return Flow::next;
}
template <class T>
Flow masked_load(Core& core, const Insn& insn) {
  return insn.vector_bytes == 32 ? masked_load_sized<T, 32>(core, insn) : masked_load_sized<T, 16>(core, insn);
}
template <class T, unsigned N>
Flow masked_store_sized(Core& core, const Insn& insn) {
  const auto mask = lanes_of<T>(read_vector<N>(core, insn.vvvv)), value = lanes_of<T>(read_vector<N>(core, insn.reg));
  const std::uint64_t ea = core.effective_address(insn);
  // A fault on any selected element must leave memory as it was, so all are probed first.
  for (unsigned i = 0; i < mask.size(); ++i) {
    if (top_bit(mask[i]) &&
        !core.probe(insn.segment, element_address(insn, ea, i * sizeof(T)), sizeof(T), AccessKind::write)) {
      return Flow::fault;
    }
  }
  for (unsigned i = 0; i < mask.size(); ++i) {
    if (top_bit(mask[i]) && !core.store<T>(insn.segment, element_address(insn, ea, i * sizeof(T)), value[i]))
      return Flow::fault;
  }
  return Flow::next;
}
template <class T>
Flow masked_store(Core& core, const Insn& insn) {
  return insn.vector_bytes == 32 ? masked_store_sized<T, 32>(core, insn) : masked_store_sized<T, 16>(core, insn);
}

/// VSIB address of one element: base + sign-extended index * scale + displacement, cut to the address size.
std::uint64_t vsib_address(const Core& core, const Insn& insn, std::int64_t index) {
  std::uint64_t ea = static_cast<std::uint64_t>(std::int64_t{insn.disp});
  if (insn.base != kNoRegister) ea += core.s.gpr[insn.base];
  ea += static_cast<std::uint64_t>(index) << insn.scale;
  if (insn.addr_size == 8) return ea;
  return static_cast<std::uint32_t>(ea);  // VSIB needs a SIB byte, so 16-bit addressing does not occur
}

/// Elements are taken from the lowest up. A fault leaves those before it loaded and their mask elements clear, so that
/// the instruction restarts with the rest (SDM vol. 2, VGATHERDPS).
template <class Index, class T>
Flow gather(Core& core, const Insn& insn) {
  // That two of destination, index and mask coincide, or 16-bit addressing, the decoder has refused.
  const unsigned count = insn.vector_bytes / std::max(sizeof(Index), sizeof(T));
  const auto index = lanes_of<Index>(read_vector<32>(core, insn.index));
  auto mask = lanes_of<T>(read_vector<32>(core, insn.vvvv));
  auto out = lanes_of<T>(read_vector<32>(core, insn.reg));
  for (unsigned i = 0; i < mask.size(); ++i) {
    if (i >= count)
      mask[i] = out[i] = 0;
    else
      mask[i] = top_bit(mask[i]) ? static_cast<T>(~T{0}) : T{0};
  }
  for (unsigned i = 0; i < count; ++i) {
    if (!mask[i]) continue;
    if (!core.load(insn.segment, vsib_address(core, insn, static_cast<std::int64_t>(index[i])), out[i])) {
      write_vex(core, insn.reg, block_of(out));
      write_vex(core, insn.vvvv, block_of(mask));
      return Flow::fault;
    }
    mask[i] = 0;
  }
  write_vex(core, insn.reg, block_of(out));
  write_vex(core, insn.vvvv, zero_block<32>());
  return Flow::next;
}

}  // namespace

void bind_avx_memory(HandlerTable& table) {
  table.set(Sem::avx_maskmovd_load, masked_load<std::uint32_t>);
  table.set(Sem::avx_maskmovq_load, masked_load<std::uint64_t>);
  table.set(Sem::avx_maskmovd_store, masked_store<std::uint32_t>);
  table.set(Sem::avx_maskmovq_store, masked_store<std::uint64_t>);
  table.set(Sem::avx_gatherdd, gather<std::int32_t, std::uint32_t>);
  table.set(Sem::avx_gatherdq, gather<std::int32_t, std::uint64_t>);
  table.set(Sem::avx_gatherqd, gather<std::int64_t, std::uint32_t>);
  table.set(Sem::avx_gatherqq, gather<std::int64_t, std::uint64_t>);
}

}  // namespace husk::cpu::interp
