// husk: decompression of kernel payloads on the host, in every format that Linux builds with
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace husk::boot {

enum class Compression : std::uint8_t { gzip, bzip2, xz, lzma, lzo, lz4, zstd };

std::string_view compression_name(Compression format);

/// By the magic at the start; nothing if it is none of ours. "lzma" is the headerless-looking LZMA_alone format, "lz4"
/// the legacy frame and "lzo" lzop's framing: those that the kernel's build uses.
std::optional<Compression> detect_compression(std::span<const std::uint8_t> data);

struct Decompressed {
  std::vector<std::uint8_t> data;
  /// Input bytes that were used. The kernel's build appends the output size after most formats, so some may be left.
  std::size_t consumed = 0;
};

/// What a decoder may use unless told else: the largest dictionary of a kernel is 128 MiB.
inline constexpr std::size_t kDecoderMemory = std::size_t{192} << 20;

/// Decompresses one stream. Fails if the output would exceed `limit` bytes, if the stream is damaged or cut short; the
/// message says which. `size_hint`, if right, spares copying; it is not trusted. A decoder's own working memory (its
/// dictionary, above all) is bounded to `memory` bytes, or a little more.
Result<Decompressed> decompress(Compression format, std::span<const std::uint8_t> input, std::size_t limit,
                                std::size_t size_hint = 0, std::size_t memory = kDecoderMemory);

}  // namespace husk::boot
