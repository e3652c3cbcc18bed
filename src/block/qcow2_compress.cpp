// husk: compressed clusters of qcow2
#include <zlib.h>
#include <zstd.h>

#include "block/qcow2_private.h"

namespace husk::block::qcow2 {
namespace {

// QEMU's block/qcow2-threads.c: raw deflate with a window of 2^12; level 2 is too weak to matter, it takes the default.
constexpr int kWindowBits = -12;

bool inflate_cluster(std::span<const std::uint8_t> in, std::span<std::uint8_t> out) {
  z_stream stream{};
  if (::inflateInit2(&stream, kWindowBits) != Z_OK) return false;
  stream.next_in = const_cast<Bytef*>(in.data());
  stream.avail_in = static_cast<uInt>(in.size());
  stream.next_out = out.data();
  stream.avail_out = static_cast<uInt>(out.size());
  const int result = ::inflate(&stream, Z_FINISH);
  const bool full = stream.avail_out == 0;
  ::inflateEnd(&stream);
  // What follows the stream up to the sector's end is not ours: Z_BUF_ERROR with all output there is fine.
  return full && (result == Z_STREAM_END || result == Z_BUF_ERROR);
}

bool unzstd_cluster(std::span<const std::uint8_t> in, std::span<std::uint8_t> out) {
  ZSTD_DCtx* context = ::ZSTD_createDCtx();
  if (context == nullptr) return false;
  ZSTD_outBuffer to{out.data(), out.size(), 0};
  ZSTD_inBuffer from{in.data(), in.size(), 0};
  bool good = true;
  while (good && to.pos < to.size) {
    const std::size_t before = to.pos, before_in = from.pos;
    good = !::ZSTD_isError(::ZSTD_decompressStream(context, &to, &from));
    if (to.pos == before && from.pos == before_in) good = false;
  }
  ::ZSTD_freeDCtx(context);
  return good;
}

}  // namespace

bool decompress(Compression method, std::span<const std::uint8_t> in, std::span<std::uint8_t> out) {
  return method == Compression::zstd ? unzstd_cluster(in, out) : inflate_cluster(in, out);
}

std::vector<std::uint8_t> compress(Compression method, std::span<const std::uint8_t> in, std::size_t most) {
  std::vector<std::uint8_t> out(most);
  if (method == Compression::zstd) {
    const std::size_t length = ::ZSTD_compress(out.data(), out.size(), in.data(), in.size(), ZSTD_CLEVEL_DEFAULT);
    out.resize(::ZSTD_isError(length) ? 0 : length);
    return out;
  }
  z_stream stream{};
  if (::deflateInit2(&stream, Z_DEFAULT_COMPRESSION, Z_DEFLATED, kWindowBits, 9, Z_DEFAULT_STRATEGY) != Z_OK) return {};
  stream.next_in = const_cast<Bytef*>(in.data());
  stream.avail_in = static_cast<uInt>(in.size());
  stream.next_out = out.data();
  stream.avail_out = static_cast<uInt>(out.size());
  const int result = ::deflate(&stream, Z_FINISH);
  out.resize(result == Z_STREAM_END ? out.size() - stream.avail_out : 0);
  ::deflateEnd(&stream);
  return out;
}

}  // namespace husk::block::qcow2
