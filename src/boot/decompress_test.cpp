// husk: decompression, against streams of the formats' own command-line tools and against the libraries' encoders
#include "boot/decompress.h"

#include <bzlib.h>
#include <gtest/gtest.h>
#include <lz4hc.h>
#include <lzma.h>
#include <lzo/lzo1x.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>

#include "base/bits.h"

namespace husk::boot {
namespace {

using Bytes = std::vector<std::uint8_t>;
constexpr std::size_t kNoLimit = 64u << 20;
constexpr Compression kAll[] = {Compression::gzip, Compression::bzip2, Compression::xz,  Compression::lzma,
                                Compression::lzo,  Compression::lz4,   Compression::zstd};

Bytes from_hex(std::string_view hex) {
  Bytes out;
  for (std::size_t i = 0; i + 1 < hex.size(); i += 2)
    out.push_back(static_cast<std::uint8_t>(std::stoi(std::string(hex.substr(i, 2)), nullptr, 16)));
  return out;
}

/// "husk " forty times, packed by Debian 12's tools as the kernel's build calls them.
Bytes tool_stream(Compression format) {
  switch (format) {
    case Compression::gzip: return from_hex("1f8b0800000000000203cb282dce56c818fa040046749416c8000000");
    case Compression::bzip2:
      return from_hex(
          "425a68393141592653591f26e67c0000279180400000480a00200030cd005289a68982784e1384f8bb9229c28480f93733e0");
    case Compression::xz:  // --check=crc32 --x86 --lzma2=,dict=32MiB
      return from_hex(
          "fd377a585a0000016922de360201040021011a0001c980b3e000c7000b5d00341d4ab12afd16b529c000000046749416000123c80100"
          "00"
          "003a67b4233e300d8b020000000001595a");
    case Compression::lzma: return from_hex("5d00000004ffffffffffffffff00341d4ab12afd16b5cf7aa7ffffb2140000");
    case Compression::lzo:
      return from_hex(
          "894c5a4f000d0a1a0a104020a0094003090300000d000081a46b01026c0000000000321e0375000000c80000000d3d874a3916687573"
          "6b"
          "2020a2100011000000000000");
    case Compression::lz4: return from_hex("02214c180f0000005f6875736b200500ab506875736b20");
    case Compression::zstd: return from_hex("28b52ffd0488650000286875736b2001004050450b43260999");
  }
  return {};
}
Bytes tool_text() {
  Bytes text;
  for (int i = 0; i < 40; ++i)
    for (const char c : {'h', 'u', 's', 'k', ' '}) text.push_back(static_cast<std::uint8_t>(c));
  return text;
}

/// Compressible but not trivially so, and with runs that do not compress.
Bytes sample(std::size_t size) {
  Bytes data(size);
  std::uint32_t x = 12345;
  for (std::size_t i = 0; i < size; ++i) {
    x = x * 1664525 + 1013904223;
    data[i] = (i / 70000) % 3 == 2 ? static_cast<std::uint8_t>(x >> 24) : static_cast<std::uint8_t>((x >> 28) + i % 7);
  }
  return data;
}

void append_be32(Bytes& out, std::size_t value) {
  out.resize(out.size() + 4);
  store_be<std::uint32_t>(out.data() + out.size() - 4, static_cast<std::uint32_t>(value));
}
void append_le32(Bytes& out, std::size_t value) {
  out.resize(out.size() + 4);
  store_le<std::uint32_t>(out.data() + out.size() - 4, static_cast<std::uint32_t>(value));
}

Bytes pack(Compression format, const Bytes& data) {
  Bytes out(data.size() + data.size() / 8 + 65536);
  switch (format) {
    case Compression::gzip: {
      z_stream z{};
      deflateInit2(&z, 9, Z_DEFLATED, 31, 8, Z_DEFAULT_STRATEGY);
      z.next_in = const_cast<Bytef*>(data.data());
      z.avail_in = static_cast<uInt>(data.size());
      z.next_out = out.data();
      z.avail_out = static_cast<uInt>(out.size());
      EXPECT_EQ(deflate(&z, Z_FINISH), Z_STREAM_END);
      out.resize(z.total_out);
      deflateEnd(&z);
      break;
    }
    case Compression::bzip2: {
      auto size = static_cast<unsigned>(out.size());
      EXPECT_EQ(BZ2_bzBuffToBuffCompress(reinterpret_cast<char*>(out.data()), &size,
                                         const_cast<char*>(reinterpret_cast<const char*>(data.data())),
                                         static_cast<unsigned>(data.size()), 9, 0, 0),
                BZ_OK);
      out.resize(size);
      break;
    }
    case Compression::xz: {
      std::size_t size = 0;
      EXPECT_EQ(lzma_easy_buffer_encode(0, LZMA_CHECK_CRC32, nullptr, data.data(), data.size(), out.data(), &size,
                                        out.size()),
                LZMA_OK);
      out.resize(size);
      break;
    }
    case Compression::lzma: {
      lzma_options_lzma options;
      lzma_lzma_preset(&options, 0);
      lzma_stream l = LZMA_STREAM_INIT;
      EXPECT_EQ(lzma_alone_encoder(&l, &options), LZMA_OK);
      l.next_in = data.data();
      l.avail_in = data.size();
      l.next_out = out.data();
      l.avail_out = out.size();
      EXPECT_EQ(lzma_code(&l, LZMA_FINISH), LZMA_STREAM_END);
      out.resize(l.total_out);
      lzma_end(&l);
      break;
    }
    case Compression::lzo: {
      const Bytes tool = tool_stream(Compression::lzo);
      out.assign(tool.begin(), tool.begin() + 38);  // lzop's own header
      std::vector<std::uint8_t> work(LZO1X_999_MEM_COMPRESS);
      for (std::size_t at = 0; at < data.size(); at += 256 << 10) {
        const std::size_t length = std::min<std::size_t>(256 << 10, data.size() - at);
        Bytes block(length + length / 16 + 67);
        lzo_uint size = block.size();
        lzo1x_999_compress(data.data() + at, length, block.data(), &size, work.data());
        if (size >= length)
          block.assign(data.begin() + static_cast<std::ptrdiff_t>(at),
                       data.begin() + static_cast<std::ptrdiff_t>(at + length));
        else
          block.resize(size);
        append_be32(out, length);
        append_be32(out, block.size());
        append_be32(out, lzo_adler32(1, data.data() + at, length));
        out.insert(out.end(), block.begin(), block.end());
      }
      append_be32(out, 0);
      break;
    }
    case Compression::lz4: {
      out.clear();
      append_le32(out, 0x184C2102);
      for (std::size_t at = 0; at < data.size(); at += 8 << 20) {
        const std::size_t length = std::min<std::size_t>(8 << 20, data.size() - at);
        Bytes block(static_cast<std::size_t>(LZ4_compressBound(static_cast<int>(length))));
        const int size =
            LZ4_compress_HC(reinterpret_cast<const char*>(data.data() + at), reinterpret_cast<char*>(block.data()),
                            static_cast<int>(length), static_cast<int>(block.size()), 9);
        append_le32(out, static_cast<std::size_t>(size));
        out.insert(out.end(), block.begin(), block.begin() + size);
      }
      break;
    }
    case Compression::zstd: {
      out.resize(ZSTD_compressBound(data.size()));
      out.resize(ZSTD_compress(out.data(), out.size(), data.data(), data.size(), 3));
      break;
    }
  }
  return out;
}

class Decompress : public ::testing::TestWithParam<Compression> {};

TEST_P(Decompress, ReadsTheToolsOwnStreamAndKnowsItsMagic) {
  const Bytes stream = tool_stream(GetParam());
  EXPECT_EQ(detect_compression(stream), GetParam());
  const auto out = decompress(GetParam(), stream, kNoLimit);
  ASSERT_TRUE(out) << out.error().text();
  EXPECT_EQ(out->data, tool_text());
  EXPECT_EQ(out->consumed, stream.size());
}

TEST_P(Decompress, ReadsManyBlocksWithTheAppendedSizeBehind) {
  const Bytes data = sample(9'000'001);
  Bytes stream = pack(GetParam(), data);
  const std::size_t end = stream.size();
  if (GetParam() != Compression::gzip) append_le32(stream, data.size());
  for (const std::size_t hint : {std::size_t{0}, data.size(), std::size_t{1} << 40}) {
    const auto out = decompress(GetParam(), stream, kNoLimit, hint);
    ASSERT_TRUE(out) << out.error().text();
    EXPECT_TRUE(out->data == data);
    EXPECT_EQ(out->consumed, end);
  }
}

TEST_P(Decompress, TheLimitIsExact) {
  const Bytes data = sample(300'000);
  const Bytes stream = pack(GetParam(), data);
  const auto out = decompress(GetParam(), stream, data.size());
  ASSERT_TRUE(out) << out.error().text();
  EXPECT_TRUE(out->data == data);
  const auto over = decompress(GetParam(), stream, data.size() - 1);
  ASSERT_FALSE(over);
  EXPECT_NE(over.error().message.find("more than"), std::string::npos) << over.error().message;
}

TEST_P(Decompress, EveryTruncationIsAnError) {
  const Bytes stream = tool_stream(GetParam());
  for (std::size_t length = 0; length < stream.size(); ++length) {
    const auto out = decompress(GetParam(), std::span(stream).first(length), kNoLimit);
    // A zstd frame without its checksum, or a stream whose end marker alone is gone, is still not whole.
    EXPECT_FALSE(out) << length;
  }
}

TEST_P(Decompress, FlippedBitsNeverCrashAndAreMostlySeen) {
  const Bytes good = pack(GetParam(), sample(20'000));
  std::size_t seen = 0, tried = 0;
  for (std::size_t at = 0; at < good.size(); at += 7) {
    Bytes bad = good;
    bad[at] ^= static_cast<std::uint8_t>(1u << (at % 8));
    seen += !decompress(GetParam(), bad, kNoLimit);
    ++tried;
  }
  // LZ4's legacy frame, lzma_alone and zstd by default have no checksum; structure alone catches part of them.
  const bool checked =
      GetParam() != Compression::lz4 && GetParam() != Compression::lzma && GetParam() != Compression::zstd;
  EXPECT_GT(seen * 10, checked ? tried * 9 : 0);
}

INSTANTIATE_TEST_SUITE_P(Formats, Decompress, ::testing::ValuesIn(kAll),
                         [](const auto& format) { return std::string(compression_name(format.param)); });

TEST(DetectCompression, OtherContentIsNone) {
  EXPECT_EQ(detect_compression({}), std::nullopt);
  EXPECT_EQ(detect_compression(from_hex("7f454c4602010100")), std::nullopt);
  EXPECT_EQ(detect_compression(from_hex("5d0000")), std::nullopt);
}

}  // namespace
}  // namespace husk::boot
