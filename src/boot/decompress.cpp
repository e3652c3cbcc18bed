// husk: one function for each compression format, all around the library that the field uses for it
#include "boot/decompress.h"

#include <bzlib.h>
#include <lz4.h>
#include <lzma.h>
#include <lzo/lzo1x.h>
#include <sys/mman.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <limits>
#include <memory>

#include "base/bits.h"

namespace husk::boot {
namespace {

using Bytes = std::span<const std::uint8_t>;

constexpr std::array<std::uint8_t, 9> kLzopMagic = {0x89, 'L', 'Z', 'O', 0, 0x0D, 0x0A, 0x1A, 0x0A};
constexpr std::uint32_t kLz4LegacyMagic = 0x184C2102;
constexpr std::size_t kLz4LegacyBlock = 8u << 20;
constexpr std::size_t kLzoBlock = 256u << 10;

std::unexpected<Error> damaged(Compression format, std::string_view why) {
  return std::unexpected(Error{fmt::format("the {} stream is damaged: {}", compression_name(format), why),
                               "get the file again, or compare its checksum"});
}
std::unexpected<Error> cut_short(Compression format, std::size_t size) {
  return std::unexpected(
      Error{fmt::format("the {} stream ends too early, after {} bytes", compression_name(format), size),
            "the file is truncated; get it again"});
}
std::unexpected<Error> too_large(Compression format, std::size_t limit) {
  return std::unexpected(
      Error{fmt::format("the {} stream unpacks to more than {} MiB", compression_name(format), limit >> 20),
            "this is no kernel that husk can hold; check that it is the right file"});
}
std::unexpected<Error> no_memory(Compression format, std::size_t memory) {
  return std::unexpected(Error{
      fmt::format("the {} decoder needs more memory than it may have ({} MiB)", compression_name(format), memory >> 20),
      "the file asks for a larger dictionary than any Linux kernel uses"});
}

/// A kernel of 50 MiB is 13,000 page faults less.
void advise_huge_pages(std::uint8_t* data, std::size_t size) {
  constexpr std::uintptr_t kHuge = std::uintptr_t{2} << 20;
  const std::uintptr_t first = align_up(reinterpret_cast<std::uintptr_t>(data), kHuge);
  const std::uintptr_t end = align_down(reinterpret_cast<std::uintptr_t>(data) + size, kHuge);
  if (first < end) ::madvise(reinterpret_cast<void*>(first), end - first, MADV_HUGEPAGE);
}

/// Output that grows as it is filled, up to a limit.
class Output {
 public:
  Output(std::size_t limit, std::size_t hint) : limit_(limit) {
    // One byte more than the hint, so that a stream which is exactly that long can be seen to end.
    const std::size_t size = std::min(limit_, std::max<std::size_t>(hint + 1, 64u << 10));
    data_.reserve(size);
    advise_huge_pages(data_.data(), size);
    data_.resize(size);
  }
  std::span<std::uint8_t> room() { return std::span(data_).subspan(used_); }
  void advance(std::size_t count) { used_ += count; }
  bool at_limit() const { return used_ == limit_; }
  /// False if no more may be had.
  bool grow() {
    if (data_.size() >= limit_) return false;
    data_.resize(std::min(limit_, data_.size() * 2));
    return true;
  }
  /// Makes room for `count` bytes more; false if the limit forbids.
  bool ensure(std::size_t count) {
    while (room().size() < count)
      if (!grow()) return false;
    return true;
  }
  Decompressed take(std::size_t consumed) {
    data_.resize(used_);
    return {std::move(data_), consumed};
  }

 private:
  std::size_t limit_;
  std::vector<std::uint8_t> data_;
  std::size_t used_ = 0;
};

/// Feeds `input` to step(in, out) -> {consumed, produced, finished} until the stream ends. The callers' step functions
/// return an Error for a damaged stream.
struct Step {
  std::size_t consumed;
  std::size_t produced;
  bool finished;
};
template <class Function>
Result<Decompressed> stream(Compression format, Bytes input, Output& out, std::size_t limit, Function&& step) {
  std::size_t at = 0;
  for (;;) {
    if (out.room().empty() && !out.grow()) {
      // The limit is reached; the stream may still end exactly here, which one step into a spare byte shows.
      std::uint8_t spare[1];
      const Step last = HUSK_TRY(step(input.subspan(at), std::span<std::uint8_t>(spare)));
      if (last.produced != 0) return too_large(format, limit);
      at += last.consumed;
      if (last.finished) return out.take(at);
      if (last.consumed == 0 || at == input.size()) return cut_short(format, input.size());
      continue;
    }
    const Step done = HUSK_TRY(step(input.subspan(at), out.room()));
    at += done.consumed;
    out.advance(done.produced);
    if (done.finished) return out.take(at);
    if (done.consumed == 0 && done.produced == 0) return cut_short(format, input.size());
  }
}

std::uint32_t cut_to_32(std::size_t size) {
  return static_cast<std::uint32_t>(std::min<std::size_t>(size, std::numeric_limits<std::uint32_t>::max()));
}

Result<Decompressed> gunzip(Bytes input, std::size_t limit, std::size_t hint) {
  z_stream z{};
  if (inflateInit2(&z, 15 + 16) != Z_OK) return no_memory(Compression::gzip, kDecoderMemory);
  const std::unique_ptr<z_stream, int (*)(z_stream*)> guard(&z, [](z_stream* s) { return inflateEnd(s); });
  Output out(limit, hint);
  return stream(Compression::gzip, input, out, limit, [&](Bytes in, std::span<std::uint8_t> room) -> Result<Step> {
    z.next_in = const_cast<Bytef*>(in.data());
    z.avail_in = cut_to_32(in.size());
    z.next_out = room.data();
    z.avail_out = cut_to_32(room.size());
    const std::uint32_t had_in = z.avail_in, had_out = z.avail_out;
    const int code = inflate(&z, Z_NO_FLUSH);
    if (code != Z_OK && code != Z_STREAM_END && code != Z_BUF_ERROR)
      return damaged(Compression::gzip, z.msg ? z.msg : "it needs a dictionary");
    return Step{had_in - z.avail_in, had_out - z.avail_out, code == Z_STREAM_END};
  });
}

Result<Decompressed> bunzip2(Bytes input, std::size_t limit, std::size_t hint) {
  bz_stream b{};
  if (BZ2_bzDecompressInit(&b, 0, 0) != BZ_OK) return no_memory(Compression::bzip2, kDecoderMemory);
  const std::unique_ptr<bz_stream, int (*)(bz_stream*)> guard(&b, [](bz_stream* s) { return BZ2_bzDecompressEnd(s); });
  Output out(limit, hint);
  return stream(Compression::bzip2, input, out, limit, [&](Bytes in, std::span<std::uint8_t> room) -> Result<Step> {
    b.next_in = const_cast<char*>(reinterpret_cast<const char*>(in.data()));
    b.avail_in = cut_to_32(in.size());
    b.next_out = reinterpret_cast<char*>(room.data());
    b.avail_out = cut_to_32(room.size());
    const std::uint32_t had_in = b.avail_in, had_out = b.avail_out;
    const int code = BZ2_bzDecompress(&b);
    if (code == BZ_MEM_ERROR) return no_memory(Compression::bzip2, kDecoderMemory);
    if (code != BZ_OK && code != BZ_STREAM_END) return damaged(Compression::bzip2, "bad block or checksum");
    return Step{had_in - b.avail_in, had_out - b.avail_out, code == BZ_STREAM_END};
  });
}

Result<Decompressed> unlzma(Compression format, Bytes input, std::size_t limit, std::size_t hint, std::size_t memory) {
  lzma_stream l = LZMA_STREAM_INIT;
  const lzma_ret made = format == Compression::xz ? lzma_stream_decoder(&l, memory, 0) : lzma_alone_decoder(&l, memory);
  if (made != LZMA_OK) return no_memory(format, memory);
  const std::unique_ptr<lzma_stream, void (*)(lzma_stream*)> guard(&l, [](lzma_stream* s) { lzma_end(s); });
  Output out(limit, hint);
  return stream(format, input, out, limit, [&](Bytes in, std::span<std::uint8_t> room) -> Result<Step> {
    l.next_in = in.data();
    l.avail_in = in.size();
    l.next_out = room.data();
    l.avail_out = room.size();
    const lzma_ret code = lzma_code(&l, LZMA_RUN);
    if (code == LZMA_MEM_ERROR || code == LZMA_MEMLIMIT_ERROR) return no_memory(format, memory);
    if (code == LZMA_OPTIONS_ERROR) return damaged(format, "it uses a filter that liblzma does not know");
    if (code == LZMA_FORMAT_ERROR) return damaged(format, "bad header");
    if (code != LZMA_OK && code != LZMA_STREAM_END && code != LZMA_BUF_ERROR)
      return damaged(format, "bad data or checksum");
    return Step{in.size() - l.avail_in, room.size() - l.avail_out, code == LZMA_STREAM_END};
  });
}

Result<Decompressed> unzstd(Bytes input, std::size_t limit, std::size_t hint, std::size_t memory) {
  const std::unique_ptr<ZSTD_DStream, std::size_t (*)(ZSTD_DStream*)> z(ZSTD_createDStream(), ZSTD_freeDStream);
  if (!z) return no_memory(Compression::zstd, memory);
  // zstd -22 --ultra, which the kernel's build uses, has windows of 2^27 bytes.
  const int window = std::clamp(static_cast<int>(std::bit_width(memory)) - 1, 10, 27);
  ZSTD_DCtx_setParameter(z.get(), ZSTD_d_windowLogMax, window);
  Output out(limit, hint);
  return stream(Compression::zstd, input, out, limit, [&](Bytes in, std::span<std::uint8_t> room) -> Result<Step> {
    ZSTD_inBuffer from{in.data(), in.size(), 0};
    ZSTD_outBuffer to{room.data(), room.size(), 0};
    const std::size_t code = ZSTD_decompressStream(z.get(), &to, &from);
    if (ZSTD_isError(code)) return damaged(Compression::zstd, ZSTD_getErrorName(code));
    return Step{from.pos, to.pos, code == 0};
  });
}

/// The "legacy frame" of `lz4 -l`: a magic, then blocks of {compressed size, data}, each of up to 8 MiB unpacked, until
/// the end of the input. The kernel's build appends four bytes of size, which look like the header of an empty block.
Result<Decompressed> unlz4(Bytes input, std::size_t limit, std::size_t hint) {
  constexpr auto kFormat = Compression::lz4;
  // Each block wants room for the most that it can unpack to, also the last.
  Output out(limit, hint + kLz4LegacyBlock);
  std::size_t at = 4;
  for (bool any = false;; any = true) {
    const std::size_t left = input.size() - at;
    if (left < 4) {
      if (any && left == 0) return out.take(at);
      return cut_short(kFormat, input.size());
    }
    const auto size = load_le<std::uint32_t>(input.data() + at);
    if (size == kLz4LegacyMagic) {  // concatenated frames
      at += 4;
      continue;
    }
    if (left == 4 && any) return out.take(at);
    if (size == 0) return out.take(at);
    if (size > static_cast<std::size_t>(LZ4_COMPRESSBOUND(kLz4LegacyBlock)))
      return damaged(kFormat, "a block is too large");
    if (size > left - 4) return cut_short(kFormat, input.size());
    // A block cannot expand more than 255 times, so that a short one does not cost 8 MiB of room.
    const std::size_t most = std::min<std::size_t>(kLz4LegacyBlock, std::size_t{size} * 255);
    const bool fits = out.ensure(most);
    const int made = LZ4_decompress_safe(reinterpret_cast<const char*>(input.data() + at + 4),
                                         reinterpret_cast<char*>(out.room().data()), static_cast<int>(size),
                                         static_cast<int>(std::min(most, out.room().size())));
    if (made < 0) {
      if (!fits) return too_large(kFormat, limit);
      return damaged(kFormat, fmt::format("bad block at offset {}", at));
    }
    out.advance(static_cast<std::size_t>(made));
    at += 4 + size;
  }
}

/// Reads lzop's big-endian header fields with bounds.
class LzopReader {
 public:
  explicit LzopReader(Bytes data) : data_(data) {}
  bool skip(std::size_t count) {
    if (data_.size() - at_ < count) return false;
    at_ += count;
    return true;
  }
  template <class T>
  std::optional<T> get() {
    if (data_.size() - at_ < sizeof(T)) return std::nullopt;
    const T value = load_be<T>(data_.data() + at_);
    at_ += sizeof(T);
    return value;
  }
  std::size_t at() const { return at_; }
  std::size_t left() const { return data_.size() - at_; }
  Bytes take(std::size_t count) {
    at_ += count;
    return data_.subspan(at_ - count, count);
  }

 private:
  Bytes data_;
  std::size_t at_ = 0;
};

// lzop's header flags.
constexpr std::uint32_t kLzopAdlerD = 0x1, kLzopAdlerC = 0x2, kLzopCrcD = 0x100, kLzopCrcC = 0x200, kLzopExtra = 0x40,
                        kLzopFilter = 0x800;

/// Returns the header's flags with the reader behind the header.
std::optional<std::uint32_t> read_lzop_header(LzopReader& in) {
  in.skip(kLzopMagic.size());
  const auto version = in.get<std::uint16_t>();
  if (!version || !in.skip(2)) return std::nullopt;  // library version
  const bool modern = *version >= 0x0940;
  if (modern && !in.skip(2)) return std::nullopt;                   // version needed to extract
  if (!in.skip(1) || (modern && !in.skip(1))) return std::nullopt;  // method, level
  const auto flags = in.get<std::uint32_t>();
  if (!flags) return std::nullopt;
  if ((*flags & kLzopFilter) && !in.skip(4)) return std::nullopt;
  if (!in.skip(8) || (modern && !in.skip(4))) return std::nullopt;  // mode, mtime
  const auto name_length = in.get<std::uint8_t>();
  if (!name_length || !in.skip(*name_length) || !in.skip(4)) return std::nullopt;  // name, header checksum
  if (*flags & kLzopExtra) {
    const auto extra = in.get<std::uint32_t>();
    if (!extra || !in.skip(*extra) || !in.skip(4)) return std::nullopt;
  }
  return flags;
}

Result<Decompressed> unlzo(Bytes input, std::size_t limit, std::size_t hint) {
  constexpr auto kFormat = Compression::lzo;
  if (lzo_init() != LZO_E_OK) return damaged(kFormat, "liblzo2 does not fit this host");
  LzopReader in(input);
  const auto flags = read_lzop_header(in);
  if (!flags) return cut_short(kFormat, input.size());
  Output out(limit, hint);
  for (;;) {
    const auto unpacked = in.get<std::uint32_t>();
    if (!unpacked) return cut_short(kFormat, input.size());
    if (*unpacked == 0) return out.take(in.at());
    const auto packed = in.get<std::uint32_t>();
    if (!packed) return cut_short(kFormat, input.size());
    if (*unpacked > kLzoBlock || *packed == 0 || *packed > *unpacked)
      return damaged(kFormat, fmt::format("bad block at offset {}", in.at() - 8));
    std::optional<std::uint32_t> adler;
    if (*flags & kLzopAdlerD) adler = in.get<std::uint32_t>();
    std::size_t skip = (*flags & kLzopCrcD) ? 4 : 0;
    // Checksums of the packed data are there only where it was packed at all.
    if (*packed < *unpacked) skip += ((*flags & kLzopAdlerC) ? 4u : 0u) + ((*flags & kLzopCrcC) ? 4u : 0u);
    if (!in.skip(skip) || in.left() < *packed) return cut_short(kFormat, input.size());
    const Bytes block = in.take(*packed);
    if (!out.ensure(*unpacked)) return too_large(kFormat, limit);
    if (*packed == *unpacked) {
      std::ranges::copy(block, out.room().begin());
    } else {
      lzo_uint made = *unpacked;
      const int code = lzo1x_decompress_safe(block.data(), block.size(), out.room().data(), &made, nullptr);
      if (code != LZO_E_OK || made != *unpacked)
        return damaged(kFormat, fmt::format("bad block at offset {}", in.at() - *packed));
    }
    if (adler && lzo_adler32(1, out.room().data(), *unpacked) != *adler)
      return damaged(kFormat, fmt::format("wrong checksum of the block at offset {}", in.at() - *packed));
    out.advance(*unpacked);
  }
}

}  // namespace

std::string_view compression_name(Compression format) {
  switch (format) {
    case Compression::gzip: return "gzip";
    case Compression::bzip2: return "bzip2";
    case Compression::xz: return "xz";
    case Compression::lzma: return "lzma";
    case Compression::lzo: return "lzo";
    case Compression::lz4: return "lz4";
    case Compression::zstd: return "zstd";
  }
  return "unknown";
}

std::optional<Compression> detect_compression(Bytes data) {
  const auto starts = [&](std::initializer_list<std::uint8_t> magic) {
    return data.size() >= magic.size() && std::equal(magic.begin(), magic.end(), data.begin());
  };
  if (starts({0x1F, 0x8B, 8})) return Compression::gzip;
  if (starts({'B', 'Z', 'h'})) return Compression::bzip2;
  if (starts({0xFD, '7', 'z', 'X', 'Z', 0})) return Compression::xz;
  if (starts({0x28, 0xB5, 0x2F, 0xFD})) return Compression::zstd;
  if (starts({0x02, 0x21, 0x4C, 0x18})) return Compression::lz4;
  if (data.size() >= kLzopMagic.size() && std::equal(kLzopMagic.begin(), kLzopMagic.end(), data.begin()))
    return Compression::lzo;
  // LZMA_alone has no magic: properties lc=3 lp=0 pb=2, then a dictionary size whose low 16 bits are zero for every
  // size in use, then an output size that is unknown or below 2^40.
  if (data.size() >= 13 && starts({0x5D, 0, 0})) {
    const auto size = load_le<std::uint64_t>(data.data() + 5);
    if (size == ~std::uint64_t{0} || size < (std::uint64_t{1} << 40)) return Compression::lzma;
  }
  return std::nullopt;
}

Result<Decompressed> decompress(Compression format, Bytes input, std::size_t limit, std::size_t hint,
                                std::size_t memory) {
  // No format packs better than about 1:8000 in practice; a hint beyond that is a lie that would cost memory.
  hint = std::min({hint, limit, input.size() * 1024});
  switch (format) {
    case Compression::gzip: return gunzip(input, limit, hint);
    case Compression::bzip2: return bunzip2(input, limit, hint);
    case Compression::xz:
    case Compression::lzma: return unlzma(format, input, limit, hint, memory);
    case Compression::lzo:
      if (input.size() < kLzopMagic.size()) return cut_short(format, input.size());
      return unlzo(input, limit, hint);
    case Compression::lz4:
      if (input.size() < 4) return cut_short(format, input.size());
      return unlz4(input, limit, hint);
    case Compression::zstd: return unzstd(input, limit, hint, memory);
  }
  return fail("unknown compression format");
}

}  // namespace husk::boot
