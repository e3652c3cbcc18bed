// husk: makes random tests of any form of the instruction table: what registers and memory hold
#include <algorithm>
#include <cstring>

#include "base/bits.h"
#include "generator.h"

namespace husk::differential {

using namespace cpu;

void Generator::fill_general(Test& test) {
  Request& request = test.request;
  for (std::uint64_t& r : request.gpr) r = dice_.integer();
  if (test.mode != Mode::long64)
    for (std::uint64_t& r : request.gpr) r &= 0xFFFF'FFFF;
  if (dice_.one_in(2)) request.gpr[kRsp] = kLowData + kPage + dice_.below(64) * 8;
  std::uint64_t flags = dice_.next() & kArithmeticFlags;
  if (dice_.one_in(4)) flags |= kDF;
  if (dice_.one_in(8)) flags |= kID;
  if (dice_.one_in(32)) flags |= kNT;
  if (dice_.one_in(24)) flags |= kAC;
  request.rflags = flags | kReservedOne | kIF;
}

void Generator::fill_x87(FpImage& image) {
  std::uint8_t* const p = image.legacy;
  unsigned control = 0x7F | dice_.below(4) << 10 | (dice_.one_in(3) ? dice_.below(4) << 8 : 0x300);
  if (dice_.one_in(2)) control = (control & ~0x3Fu) | dice_.below(64);
  if (dice_.one_in(16)) control |= 0x1000;
  const unsigned top = dice_.below(8);
  unsigned status = top << 11 | (dice_.one_in(2) ? static_cast<unsigned>(dice_.next() & 0x4700) : 0);
  if (dice_.one_in(4)) status |= dice_.below(128);
  // A pending exception makes all but the control forms raise #MF: few of those.
  if (!dice_.one_in(12)) status &= ~0x3Fu | control;
  if (status & ~control & 0x3F) status |= 0x8080;
  unsigned tags = 0xFF;
  if (dice_.one_in(3)) tags = dice_.one_in(3) ? 0 : static_cast<unsigned>(dice_.next() & 0xFF);
  if (dice_.one_in(2)) tags &= ~(1u << ((top + 7) & 7));
  store_le(p, static_cast<std::uint16_t>(control));
  store_le(p + 2, static_cast<std::uint16_t>(status));
  store_le(p + 4, static_cast<std::uint16_t>(tags));
  store_le(p + 6, static_cast<std::uint16_t>(dice_.next() & 0x7FF));
  store_le(p + 8, dice_.next() >> 17);
  store_le(p + 16, dice_.next() >> 17);
  for (unsigned i = 0; i < 8; ++i) {
    Dice::Extended e = dice_.extended();
    if (i > 0 && dice_.one_in(4)) {
      // A near neighbour of the register before, so that sums cancel and compares are close.
      e.significand = load_le<std::uint64_t>(p + 16 + 16 * i) + dice_.below(3) - 1;
      e.sign_exponent =
          static_cast<std::uint16_t>(load_le<std::uint16_t>(p + 24 + 16 * i) ^ (dice_.one_in(2) ? 0x8000 : 0));
    }
    store_le(p + 32 + 16 * i, e.significand);
    store_le(p + 40 + 16 * i, static_cast<std::uint64_t>(e.sign_exponent));
  }
}

void Generator::fill_fp(Test& test) {
  const FormTraits& traits = traits_[test.form];
  Request& request = test.request;
  const unsigned pick = dice_.below(static_cast<unsigned>(images_.size()));
  request.fp = images_[pick];
  if (traits.x87 || (forms()[test.form].attributes & kAttrMmx))
    fill_x87(request.fp);
  else if (dice_.one_in(64))
    fill_x87(images_[pick]);
  std::uint32_t mxcsr = 0x1F80;
  if (forms()[test.form].attributes & kAttrSimdFp) {
    switch (dice_.below(4)) {
      case 0: break;
      case 1: mxcsr = 0x1F80 | dice_.below(4) << 13; break;
      case 2: mxcsr = 0x1F80 | (static_cast<std::uint32_t>(dice_.next()) & 0xE07F); break;
      default: mxcsr = static_cast<std::uint32_t>(dice_.next()) & 0xFFFF; break;
    }
  } else if (dice_.one_in(4)) {
    mxcsr = static_cast<std::uint32_t>(dice_.next()) & 0xFFFF;
  }
  store_le(request.fp.legacy + 24, mxcsr);
}

void Generator::lanes(std::uint8_t* out, unsigned size, const FormTraits& traits) {
  if (traits.single && (!traits.real || dice_.one_in(2)) && !dice_.one_in(8)) return dice_.fill_singles(out, size);
  if (traits.real && !dice_.one_in(8)) return dice_.fill_reals(out, size);
  dice_.fill(out, size);
}

void Generator::set_vector(Test& test, unsigned number) {
  const FormTraits& traits = traits_[test.form];
  number &= 15;
  lanes(test.request.fp.legacy + 160 + 16 * number, 16, traits);
  lanes(test.request.fp.ymm_high[number], 16, traits);
}

void Generator::operand_values(Test& test) {
  const FormTraits& traits = traits_[test.form];
  const Insn& insn = test.insn;
  Request& request = test.request;
  auto& gpr = request.gpr;
  if (traits.vector) {
    set_vector(test, insn.reg);
    set_vector(test, insn.vvvv);
    if (!insn.memory) set_vector(test, insn.rm);
    if (traits.two_immediates) set_vector(test, insn.imm2);
    set_vector(test, 0);
    if (traits.single || traits.real) {
      // Equal or opposite operands now and then.
      if (dice_.one_in(6))
        std::memcpy(request.fp.legacy + 160 + 16 * (insn.reg & 15u), request.fp.legacy + 160 + 16 * (insn.rm & 15u),
                    16);
    } else if (dice_.one_in(6)) {
      std::memcpy(request.fp.legacy + 160 + 16 * (insn.vvvv & 15u), request.fp.legacy + 160 + 16 * (insn.rm & 15u), 16);
    }
    if ((forms()[test.form].attributes & kAttrMmx) && !insn.memory) {
      lanes(request.fp.legacy + 32 + 16 * (insn.rm & 7u), 8, traits);
      lanes(request.fp.legacy + 32 + 16 * (insn.reg & 7u), 8, traits);
    }
  }
  switch (traits.special) {
    case Special::shift_cl:
      if (dice_.one_in(2)) gpr[kRcx] = (gpr[kRcx] & ~std::uint64_t{0xFF}) | dice_.below(72);
      break;
    case Special::divide: {
      // A quotient that fits: the high half below the divisor.
      const unsigned bits = insn.op_size * 8u;
      if (dice_.one_in(4)) break;
      if (insn.op_size == 1) {
        gpr[kRax] = (gpr[kRax] & ~std::uint64_t{0xFFFF}) | (dice_.integer() & 0xFFFF) >> dice_.below(8);
      } else if (dice_.one_in(2)) {
        gpr[kRdx] = bit(gpr[kRax], bits - 1) && forms()[test.form].mnemonic == "IDIV" ? ~std::uint64_t{0} : 0;
      } else {
        gpr[kRdx] = dice_.integer() & mask_of(bits) >> dice_.below(bits);
      }
      if (test.mode != Mode::long64) gpr[kRdx] &= 0xFFFF'FFFF;
      break;
    }
    case Special::pcmpestr:
      if (dice_.one_in(4)) break;
      gpr[kRax] = dice_.below(20) - (dice_.one_in(4) ? 20u : 0u);
      gpr[kRdx] = dice_.below(20) - (dice_.one_in(4) ? 20u : 0u);
      if (dice_.one_in(2)) gpr[kRax] = static_cast<std::uint64_t>(static_cast<std::int32_t>(gpr[kRax]));
      if (test.mode != Mode::long64) {
        gpr[kRax] &= 0xFFFF'FFFF;
        gpr[kRdx] &= 0xFFFF'FFFF;
      }
      break;
    default: break;
  }
  if (traits.indirect && !insn.memory) gpr[insn.rm & 15u] = branch_target(test);
  if (traits.selector && !insn.memory && !dice_.one_in(8)) {
    std::uint64_t& r = gpr[insn.rm & 15u];
    r = (r & ~std::uint64_t{0xFFFF}) | selector();
  }
  if (!insn.memory && traits.special == Special::cmpxchg && dice_.one_in(2)) gpr[kRax] = gpr[insn.rm & 15u];
}

void Generator::poke(Test& test, std::uint64_t linear, const void* bytes, unsigned size) {
  Request& request = test.request;
  if (request.poke_count == kMaxPokes) return;
  std::uint64_t offset = 0, skip = 0;
  bool found = false;
  for (const std::uint64_t base : {kLowData, kHighData, kTinyData}) {
    if (linear - base < kDataSize) {
      offset = linear - base;
      found = true;
    } else if (base - linear < size) {
      // Begins in the hole before the data.
      skip = base - linear;
      found = true;
    }
    if (found) break;
  }
  if (!found) return;
  unsigned used = 0;
  for (unsigned i = 0; i < request.poke_count; ++i)
    used = std::max<unsigned>(used, request.pokes[i].source + request.pokes[i].length);
  const auto length = std::min<std::uint64_t>({size - skip, kDataSize - offset, kPokeBytes - used});
  if (length == 0) return;
  request.pokes[request.poke_count++] = {static_cast<std::uint16_t>(offset), static_cast<std::uint16_t>(length),
                                         static_cast<std::uint16_t>(used)};
  std::memcpy(request.poke_bytes + used, static_cast<const std::uint8_t*>(bytes) + skip, length);
}

void Generator::poke_operand(Test& test, std::uint64_t linear, unsigned size) {
  const FormTraits& traits = traits_[test.form];
  const Insn& insn = test.insn;
  auto& gpr = test.request.gpr;
  if (size >= 94 || traits.special == Special::fldenv) return poke_state(test, linear);
  std::uint8_t bytes[64];
  if (traits.vector)
    lanes(bytes, 32, traits);
  else
    dice_.fill(bytes, 64);
  if (traits.indirect) {
    const std::uint64_t target = branch_target(test);
    std::memcpy(bytes, &target, 8);
  } else if (traits.selector && !dice_.one_in(8)) {
    const std::uint16_t value = selector();
    const bool far = forms()[test.form].mnemonic.starts_with("L") && insn.op_size >= 2 &&
                     forms()[test.form].mnemonic.size() == 3 && forms()[test.form].mnemonic.ends_with("S");
    std::memcpy(bytes + (far ? insn.op_size : 0), &value, 2);
  } else if (traits.special == Special::ldmxcsr) {
    const std::uint32_t value = static_cast<std::uint32_t>(dice_.next()) & (dice_.one_in(8) ? 0xFFFF'FFFFu : 0xFFFFu);
    std::memcpy(bytes, &value, 4);
  } else if (traits.special == Special::fbld && !dice_.one_in(4)) {
    for (unsigned i = 0; i < 9; ++i) bytes[i] = static_cast<std::uint8_t>(dice_.below(10) << 4 | dice_.below(10));
    bytes[9] = static_cast<std::uint8_t>(dice_.next() & 0x80);
  } else if (traits.x87) {
    switch (traits.memory_size) {
      case 4:
        if (!dice_.one_in(3)) dice_.fill_singles(bytes, 4);
        break;
      case 8:
        if (!dice_.one_in(3)) dice_.fill_reals(bytes, 8);
        break;
      case 10: {
        const Dice::Extended e = dice_.extended();
        std::memcpy(bytes, &e.significand, 8);
        std::memcpy(bytes + 8, &e.sign_exponent, 2);
        break;
      }
      default: break;
    }
  } else if (traits.special == Special::cmpxchg && dice_.one_in(2)) {
    std::memcpy(bytes, &gpr[kRax], 8);
  } else if ((traits.special == Special::cmpxchg8b || traits.special == Special::cmpxchg16b) && dice_.one_in(2)) {
    const unsigned half = traits.special == Special::cmpxchg8b ? 4 : 8;
    std::memcpy(bytes, &gpr[kRax], half);
    std::memcpy(bytes + half, &gpr[kRdx], half);
  }
  const unsigned length = traits.vector                                       ? 32
                          : traits.string_source || traits.string_destination ? 64
                                                                              : std::max(size, 16u);
  poke(test, linear, bytes, std::min(length, 64u));
}

void Generator::poke_state(Test& test, std::uint64_t linear) {
  const FormTraits& traits = traits_[test.form];
  FpImage image = images_[dice_.below(static_cast<unsigned>(images_.size()))];
  if (traits.special == Special::fldenv || traits.special == Special::frstor) {
    fill_x87(image);
    std::uint8_t bytes[108] = {};
    const bool wide = test.insn.op_size != 2;
    const unsigned step = wide ? 4 : 2;
    for (unsigned i = 0; i < 3; ++i) std::memcpy(bytes + step * i, image.legacy + 2 * i, 2);
    const auto tags = static_cast<std::uint16_t>(dice_.one_in(2) ? 0 : dice_.next());
    std::memcpy(bytes + step * 2, &tags, 2);
    for (unsigned i = step * 3; i < step * 7; ++i) bytes[i] = static_cast<std::uint8_t>(dice_.next());
    for (unsigned i = 0; i < 8; ++i) std::memcpy(bytes + step * 7 + 10 * i, image.legacy + 32 + 16 * i, 10);
    if (dice_.one_in(8)) dice_.fill(bytes, 28);
    return poke(test, linear, bytes, traits.special == Special::fldenv ? 28 : 108);
  }
  fill_x87(image);
  std::uint32_t mxcsr = static_cast<std::uint32_t>(dice_.next()) & 0xFFFF;
  if (dice_.one_in(32)) mxcsr |= 1u << (16 + dice_.below(16));
  store_le(image.legacy + 24, mxcsr);
  for (unsigned i = 0; i < 8; ++i) store_le(image.legacy + 42 + 16 * i, static_cast<std::uint32_t>(dice_.next()));
  store_le(image.legacy + 480, dice_.next());
  if (traits.special == Special::xrstor || traits.special == Special::xsave) {
    image.xstate_bv = dice_.one_in(4) ? 7 : dice_.below(8);
    if (dice_.one_in(16)) image.xstate_bv |= std::uint64_t{1} << dice_.below(64);
    if (dice_.one_in(6)) image.xcomp_bv = std::uint64_t{1} << 63 | dice_.below(8) | image.xstate_bv;
    if (dice_.one_in(32)) image.xcomp_bv = std::uint64_t{1} << dice_.below(64);
    if (dice_.one_in(32)) image.header_rest[dice_.below(48)] = 1;
    // Components that the host alone has must not be asked for.
    image.xstate_bv &= ~std::uint64_t{0xE0};
    image.xcomp_bv &= ~std::uint64_t{0xE0};
  }
  poke(test, linear, &image, std::min(traits.memory_size, static_cast<unsigned>(sizeof image)));
}

}  // namespace husk::differential
