// husk: AES, carry-less multiplication, SHA and Galois-field instructions
#include <bit>

#include "cpu/interp/vec_bind.h"
#include "cpu/interp/vec_shapes.h"

namespace husk::cpu::interp {
namespace {

using u8 = std::uint8_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;

// ---- AES (FIPS 197). State byte 4*column + row is block byte 4*column + row ----

/// Product in GF(2^8) modulo x^8 + x^4 + x^3 + x + 1, the field of both AES and GFNI.
constexpr u8 multiply(u8 a, u8 b) {
  unsigned product = 0, shifted = a;
  for (unsigned i = 0; i < 8; ++i) {
    if ((b >> i) & 1) product ^= shifted;
    shifted <<= 1;
    if (shifted & 0x100) shifted ^= 0x11B;
  }
  return static_cast<u8>(product);
}
/// 0 for 0. a^254, by a chain of squarings.
constexpr u8 inverse(u8 a) {
  u8 power = a, result = 1;
  for (unsigned i = 1; i < 8; ++i) {
    power = multiply(power, power);
    result = multiply(result, power);
  }
  return result;
}
constexpr std::array<u8, 256> make_inverses() {
  std::array<u8, 256> table{};
  for (unsigned i = 0; i < 256; ++i) table[i] = inverse(static_cast<u8>(i));
  return table;
}
constexpr std::array<u8, 256> kInverse = make_inverses();
constexpr std::array<u8, 256> make_sbox() {
  std::array<u8, 256> box{};
  for (unsigned i = 0; i < 256; ++i) {
    const u8 b = kInverse[i];
    box[i] = static_cast<u8>(b ^ std::rotl(b, 1) ^ std::rotl(b, 2) ^ std::rotl(b, 3) ^ std::rotl(b, 4) ^ 0x63);
  }
  return box;
}
constexpr std::array<u8, 256> kSbox = make_sbox();
constexpr std::array<u8, 256> make_inverse_sbox() {
  std::array<u8, 256> box{};
  for (unsigned i = 0; i < 256; ++i) box[kSbox[i]] = static_cast<u8>(i);
  return box;
}
constexpr std::array<u8, 256> kInverseSbox = make_inverse_sbox();
/// What one byte of a column contributes to its product with the matrix whose first column is given (row 0 lowest); the
/// contributions of the next rows are rotations of this one. Substitute: through that S-box first.
constexpr std::array<u32, 256> make_mix_table(std::array<u8, 4> column, const std::array<u8, 256>* substitute) {
  std::array<u32, 256> table{};
  for (unsigned i = 0; i < 256; ++i) {
    const u8 value = substitute ? (*substitute)[i] : static_cast<u8>(i);
    for (unsigned row = 0; row < 4; ++row) table[i] |= u32{multiply(column[row], value)} << (8 * row);
  }
  return table;
}
constexpr auto kEncrypt = make_mix_table({2, 1, 1, 3}, &kSbox);
constexpr auto kDecrypt = make_mix_table({14, 9, 13, 11}, &kInverseSbox);
constexpr auto kInverseMix = make_mix_table({14, 9, 13, 11}, nullptr);

/// A whole round but for the key: row r of column c comes from column c + Shift * r.
template <unsigned Shift>
Block<16> mix_round(const std::array<u32, 256>& table, const Block<16>& state) {
  Lanes<u32, 16> out;
  for (unsigned c = 0; c < 4; ++c) {
    const auto at = [&](unsigned row) { return table[state.bytes[((c + Shift * row) % 4) * 4 + row]]; };
    out[c] = at(0) ^ std::rotl(at(1), 8) ^ std::rotl(at(2), 16) ^ std::rotl(at(3), 24);
  }
  return block_of(out);
}
Block<16> sub_and_shift(const Block<16>& state) {
  Block<16> out;
  for (unsigned i = 0; i < 16; ++i) out.bytes[i] = kSbox[state.bytes[(i + 4 * (i % 4)) % 16]];
  return out;
}
Block<16> inverse_sub_and_shift(const Block<16>& state) {
  Block<16> out;
  for (unsigned i = 0; i < 16; ++i) out.bytes[i] = kInverseSbox[state.bytes[(i + 12 * (i % 4)) % 16]];
  return out;
}
Block<16> exclusive_or(Block<16> a, const Block<16>& b) {
  for (unsigned i = 0; i < 16; ++i) a.bytes[i] ^= b.bytes[i];
  return a;
}
struct aesenc {
  static Block<16> apply(const Block<16>& a, const Block<16>& b) { return exclusive_or(mix_round<1>(kEncrypt, a), b); }
};
struct aesenclast {
  static Block<16> apply(const Block<16>& a, const Block<16>& b) { return exclusive_or(sub_and_shift(a), b); }
};
struct aesdec {
  static Block<16> apply(const Block<16>& a, const Block<16>& b) { return exclusive_or(mix_round<3>(kDecrypt, a), b); }
};
struct aesdeclast {
  static Block<16> apply(const Block<16>& a, const Block<16>& b) { return exclusive_or(inverse_sub_and_shift(a), b); }
};
struct aesimc {
  static Block<16> apply(const Block<16>& b) { return mix_round<0>(kInverseMix, b); }
};
struct aeskeygenassist {
  static Block<16> apply(const Block<16>& b, unsigned imm) {
    const auto x = lanes_of<u32>(b);
    const auto substitute = [](u32 word) {
      u32 out = 0;
      for (unsigned i = 0; i < 32; i += 8) out |= u32{kSbox[(word >> i) & 0xFF]} << i;
      return out;
    };
    const u32 s1 = substitute(x[1]), s3 = substitute(x[3]);
    return block_of(Lanes<u32, 16>{s1, std::rotr(s1, 8) ^ imm, s3, std::rotr(s3, 8) ^ imm});
  }
};

/// 32 by 32 bits without carries, by integer products of operands of which every fourth bit is kept: at most eight
/// terms meet in a bit, so their sum stays within the three bits of the hole above it.
u64 multiply_carryless(u32 x, u32 y) {
  static constexpr std::array<u64, 4> kEvery4{0x1111111111111111, 0x2222222222222222, 0x4444444444444444,
                                              0x8888888888888888};
  u64 product = 0;
  for (unsigned k = 0; k < 4; ++k) {
    u64 sum = 0;
    for (unsigned i = 0; i < 4; ++i) sum ^= (x & kEvery4[i]) * (y & kEvery4[(k - i) & 3]);
    product |= sum & kEvery4[k];
  }
  return product;
}
struct pclmulqdq {
  static Block<16> apply(const Block<16>& a, const Block<16>& b, unsigned imm) {
    const u64 x = lanes_of<u64>(a)[imm & 1], y = lanes_of<u64>(b)[(imm >> 4) & 1];
    const u32 x0 = static_cast<u32>(x), x1 = static_cast<u32>(x >> 32);
    const u32 y0 = static_cast<u32>(y), y1 = static_cast<u32>(y >> 32);
    const u64 low = multiply_carryless(x0, y0), high = multiply_carryless(x1, y1);
    const u64 middle = multiply_carryless(x0 ^ x1, y0 ^ y1) ^ low ^ high;  // Karatsuba
    return block_of(Lanes<u64, 16>{low ^ (middle << 32), high ^ (middle >> 32)});
  }
};

// ---- SHA (FIPS 180-4; SDM vol. 2). Element 3 is the first word of the message, or A ----

struct sha1msg1 {
  static Block<16> apply(const Block<16>& a, const Block<16>& b) {
    const auto w = lanes_of<u32>(a), v = lanes_of<u32>(b);
    return block_of(Lanes<u32, 16>{v[2] ^ w[0], v[3] ^ w[1], w[0] ^ w[2], w[1] ^ w[3]});
  }
};
struct sha1msg2 {
  static Block<16> apply(const Block<16>& a, const Block<16>& b) {
    const auto x = lanes_of<u32>(a), w = lanes_of<u32>(b);
    const u32 w16 = std::rotl(x[3] ^ w[2], 1), w17 = std::rotl(x[2] ^ w[1], 1), w18 = std::rotl(x[1] ^ w[0], 1);
    return block_of(Lanes<u32, 16>{std::rotl(x[0] ^ w16, 1), w18, w17, w16});
  }
};
struct sha1nexte {
  static Block<16> apply(const Block<16>& a, const Block<16>& b) {
    auto out = lanes_of<u32>(b);
    out[3] += std::rotl(lanes_of<u32>(a)[3], 30);
    return block_of(out);
  }
};
constexpr u32 choose(u32 x, u32 y, u32 z) { return (x & y) ^ (~x & z); }
constexpr u32 majority(u32 x, u32 y, u32 z) { return (x & y) ^ (x & z) ^ (y & z); }
struct sha1rnds4 {
  static Block<16> apply(const Block<16>& first, const Block<16>& second, unsigned imm) {
    static constexpr std::array<u32, 4> kRound{0x5A827999, 0x6ED9EBA1, 0x8F1BBCDC, 0xCA62C1D6};
    const auto state = lanes_of<u32>(first), w = lanes_of<u32>(second);
    u32 a = state[3], b = state[2], c = state[1], d = state[0], e = 0;  // E comes with the first word
    for (unsigned i = 0; i < 4; ++i) {
      u32 f = b ^ c ^ d;
      if ((imm & 3) == 0)
        f = choose(b, c, d);
      else if ((imm & 3) == 2)
        f = majority(b, c, d);
      const u32 next = f + std::rotl(a, 5) + w[3 - i] + e + kRound[imm & 3];
      e = d;
      d = c;
      c = std::rotl(b, 30);
      b = a;
      a = next;
    }
    return block_of(Lanes<u32, 16>{d, c, b, a});
  }
};
struct sha256msg1 {
  static Block<16> apply(const Block<16>& a, const Block<16>& b) {
    const auto sigma0 = [](u32 x) { return std::rotr(x, 7) ^ std::rotr(x, 18) ^ (x >> 3); };
    const auto w = lanes_of<u32>(a);
    const u32 w4 = lanes_of<u32>(b)[0];
    return block_of(Lanes<u32, 16>{w[0] + sigma0(w[1]), w[1] + sigma0(w[2]), w[2] + sigma0(w[3]), w[3] + sigma0(w4)});
  }
};
struct sha256msg2 {
  static Block<16> apply(const Block<16>& a, const Block<16>& b) {
    const auto sigma1 = [](u32 x) { return std::rotr(x, 17) ^ std::rotr(x, 19) ^ (x >> 10); };
    const auto x = lanes_of<u32>(a), w = lanes_of<u32>(b);
    const u32 w16 = x[0] + sigma1(w[2]), w17 = x[1] + sigma1(w[3]);
    return block_of(Lanes<u32, 16>{w16, w17, x[2] + sigma1(w16), x[3] + sigma1(w17)});
  }
};
/// The first operand holds C D G H, the second A B E F, XMM0 two words with the round constants added.
Flow sha256rnds2(Core& core, const Insn& insn) {
  Block<16> second;
  if (!fetch<Encoding::sse>(core, insn, second)) return Flow::fault;
  const auto cdgh = lanes_of<u32>(read_vector<16>(core, insn.reg)), abef = lanes_of<u32>(second);
  const auto wk = lanes_of<u32>(read_vector<16>(core, 0));
  u32 a = abef[3], b = abef[2], e = abef[1], f = abef[0], c = cdgh[3], d = cdgh[2], g = cdgh[1], h = cdgh[0];
  for (unsigned i = 0; i < 2; ++i) {
    const u32 t1 = h + (std::rotr(e, 6) ^ std::rotr(e, 11) ^ std::rotr(e, 25)) + choose(e, f, g) + wk[i];
    const u32 t2 = (std::rotr(a, 2) ^ std::rotr(a, 13) ^ std::rotr(a, 22)) + majority(a, b, c);
    h = g;
    g = f;
    f = e;
    e = d + t1;
    d = c;
    c = b;
    b = a;
    a = t1 + t2;
  }
  write_low(core, insn.reg, block_of(Lanes<u32, 16>{f, e, b, a}));
  return Flow::next;
}

// ---- GFNI ----

struct gf2p8mulb {
  static Block<16> apply(const Block<16>& a, const Block<16>& b) {
    Block<16> out;
    for (unsigned i = 0; i < 16; ++i) out.bytes[i] = multiply(a.bytes[i], b.bytes[i]);
    return out;
  }
};
/// Bit i of the result is the parity of matrix row 7-i and the byte, plus bit i of the immediate. Each 64-bit element
/// of the second operand is the matrix of the eight bytes of the same element of the first.
template <bool Invert>
struct AffineTransform {
  static Block<16> apply(const Block<16>& a, const Block<16>& b, unsigned imm) {
    Block<16> out;
    for (unsigned i = 0; i < 16; ++i) {
      const u8 x = Invert ? kInverse[a.bytes[i]] : a.bytes[i];
      unsigned y = imm;
      for (unsigned k = 0; k < 8; ++k) {
        y ^= (static_cast<unsigned>(std::popcount(static_cast<u8>(b.bytes[(i & 8) + 7 - k] & x))) & 1u) << k;
      }
      out.bytes[i] = static_cast<u8>(y);
    }
    return out;
  }
};
using gf2p8affineqb = AffineTransform<false>;
using gf2p8affineinvqb = AffineTransform<true>;

}  // namespace

void bind_crypto(HandlerTable& table) {
#define X(name)                                 \
  table.set(Sem::sse_##name, sse_binary<name>); \
  table.set(Sem::avx_##name, avx_binary<name>);
  X(aesenc)
  X(aesenclast)
  X(aesdec)
  X(aesdeclast)
  X(pclmulqdq)
  X(gf2p8mulb)
  X(gf2p8affineqb)
  X(gf2p8affineinvqb)
#undef X
  table.set(Sem::sse_aesimc, sse_unary<aesimc>);
  table.set(Sem::avx_aesimc, avx_unary<aesimc>);
  table.set(Sem::sse_aeskeygenassist, sse_unary<aeskeygenassist>);
  table.set(Sem::avx_aeskeygenassist, avx_unary<aeskeygenassist>);
  table.set(Sem::sse_sha1msg1, sse_binary<sha1msg1>);
  table.set(Sem::sse_sha1msg2, sse_binary<sha1msg2>);
  table.set(Sem::sse_sha1nexte, sse_binary<sha1nexte>);
  table.set(Sem::sse_sha1rnds4, sse_binary<sha1rnds4>);
  table.set(Sem::sse_sha256msg1, sse_binary<sha256msg1>);
  table.set(Sem::sse_sha256msg2, sse_binary<sha256msg2>);
  table.set(Sem::sse_sha256rnds2, sha256rnds2);
}

}  // namespace husk::cpu::interp
