// husk: opens disks: protocol, format, backing chain and filters from one description
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "block/context.h"
#include "block/file.h"
#include "block/node.h"
#include "block/throttle.h"

namespace husk::block {

/// As QEMU defines them: none and directsync bypass the host's page cache; writethrough and directsync make every write
/// stable; unsafe ignores flushes.
enum class CacheMode { writeback, none, writethrough, directsync, unsafe };
Result<CacheMode> parse_cache_mode(const std::string& name);

struct DiskOptions {
  std::string path;      ///< a file, a block device or an nbd:, nbd:// or nbd+unix:// address
  std::string format{};  ///< "raw" or "qcow2"; if empty the file tells
  bool read_only = false;
  CacheMode cache = CacheMode::writeback;
  bool discard = true;  ///< `discard=unmap`: give discarded space back to the host
  Locking locking = Locking::automatic;
  /// `snapshot=on`: what is written is kept in memory and lost at the end.
  bool temporary = false;
  ThrottleLimits throttle{};
  // raw
  std::uint64_t raw_offset = 0;
  std::optional<std::uint64_t> raw_size{};
  // qcow2
  std::optional<bool> lazy_refcounts{};
  std::optional<std::uint64_t> l2_cache{};  ///< bytes
  bool without_backing = false;             ///< as if the image named no backing file
  std::string snapshot{};                   ///< the disk as it was in this internal snapshot; needs read_only
  bool for_inspection = false;              ///< open even if corrupt; implies read_only
  std::uint64_t nbd_reconnect_ns = 0;       ///< how long requests wait for a lost NBD server
};

/// Opens the disk with all its backing files (each read-only). A chain that loops is refused, as is one longer than
/// kLongestChain. Waits by Context::wait().
inline constexpr unsigned kLongestChain = 1000;
Result<std::unique_ptr<Node>> open_disk(Context& context, const DiskOptions& options);

/// The file or NBD export alone, without a format.
Result<std::unique_ptr<Node>> open_protocol(Context& context, const DiskOptions& options);
/// "qcow2" by its magic number, else "raw".
Result<std::string> guess_format(Context& context, Node& file);

/// A path in an image, relative to the image's own.
std::string resolve_path(const std::string& image, const std::string& path);
/// True if it is an address of a protocol rather than a file.
bool is_address(const std::string& path);

/// A format and what it is in a chain, closed properly.
Status close_node(Context& context, Node& node);

}  // namespace husk::block
