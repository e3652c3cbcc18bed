// husk: qcow2's structures on disk (QEMU's docs/interop/qcow2.txt): header, extensions, table entries, snapshot table
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"

namespace husk::block::qcow2 {

inline constexpr std::uint32_t kMagic = 0x514649fb;  // "QFI\xfb"
inline constexpr unsigned kLeastClusterBits = 9;
inline constexpr unsigned kMostClusterBits = 21;
inline constexpr std::uint64_t kMostL1Bytes = 32u << 20;
inline constexpr std::uint64_t kMostRefcountTableBytes = 8u << 20;
inline constexpr unsigned kMostSnapshots = 65536;
inline constexpr std::uint64_t kMostSnapshotTableBytes = 1024u * kMostSnapshots;
inline constexpr unsigned kSubclusters = 32;  // of a cluster, with extended L2 entries

// Incompatible features.
inline constexpr std::uint64_t kDirty = 1;
inline constexpr std::uint64_t kCorrupt = 2;
inline constexpr std::uint64_t kExternalData = 4;
inline constexpr std::uint64_t kCompressionType = 8;
inline constexpr std::uint64_t kExtendedL2 = 16;
// Compatible features.
inline constexpr std::uint64_t kLazyRefcounts = 1;
// Autoclear features.
inline constexpr std::uint64_t kBitmaps = 1;
inline constexpr std::uint64_t kRawExternalData = 2;

// Header extensions.
inline constexpr std::uint32_t kExtensionBackingFormat = 0xe2792aca;
inline constexpr std::uint32_t kExtensionFeatureNames = 0x6803f857;
inline constexpr std::uint32_t kExtensionBitmaps = 0x23852875;
inline constexpr std::uint32_t kExtensionEncryption = 0x0537be77;
inline constexpr std::uint32_t kExtensionDataFile = 0x44415441;

// L1 and L2 entries.
inline constexpr std::uint64_t kCopied = std::uint64_t{1} << 63;  // the cluster's refcount is exactly one
inline constexpr std::uint64_t kCompressed = std::uint64_t{1} << 62;
inline constexpr std::uint64_t kZero = 1;                                 // v3, standard L2 entries only
inline constexpr std::uint64_t kOffsetMask = 0x00fffffffffffe00;          // bits 9..55
inline constexpr std::uint64_t kRefcountOffsetMask = 0xfffffffffffffe00;  // bits 9..63

enum class Compression : std::uint8_t { zlib = 0, zstd = 1 };

struct Extension {
  std::uint32_t type = 0;
  std::vector<std::uint8_t> data;
};

/// The header with its extensions and the backing file's name, in host form.
struct Header {
  std::uint32_t version = 3;
  std::uint64_t backing_offset = 0;
  std::uint32_t cluster_bits = 16;
  std::uint64_t size = 0;
  std::uint32_t crypt_method = 0;
  std::uint32_t l1_size = 0;  ///< entries
  std::uint64_t l1_offset = 0;
  std::uint64_t refcount_table_offset = 0;
  std::uint32_t refcount_table_clusters = 0;
  std::uint32_t snapshot_count = 0;
  std::uint64_t snapshots_offset = 0;
  std::uint64_t incompatible = 0;
  std::uint64_t compatible = 0;
  std::uint64_t autoclear = 0;
  std::uint32_t refcount_order = 4;
  std::uint32_t header_length = 104;
  Compression compression = Compression::zlib;
  /// Bytes of the fixed header beyond those known here, kept as they are.
  std::vector<std::uint8_t> further;

  std::string backing_file;
  std::string backing_format;
  std::string data_file;
  std::vector<Extension> extensions;  ///< all but backing format, data file and feature names

  std::uint64_t cluster_size() const { return std::uint64_t{1} << cluster_bits; }
  bool extended_l2() const { return (incompatible & kExtendedL2) != 0; }
  bool external_data() const { return (incompatible & kExternalData) != 0; }
  bool raw_external_data() const { return (autoclear & kRawExternalData) != 0; }
  unsigned l2_entry_bytes() const { return extended_l2() ? 16 : 8; }
  std::uint64_t l2_entries() const { return cluster_size() / l2_entry_bytes(); }
  /// Guest bytes that one L2 table maps.
  std::uint64_t l2_reach() const { return l2_entries() << cluster_bits; }
  std::uint64_t subcluster_size() const { return extended_l2() ? cluster_size() / kSubclusters : cluster_size(); }
  std::uint64_t refcount_block_entries() const { return (cluster_size() * 8) >> refcount_order; }
  std::uint64_t most_refcount() const {
    return refcount_order == 6 ? ~std::uint64_t{0} : (std::uint64_t{1} << (1u << refcount_order)) - 1;
  }
  /// L1 entries that a disk of `bytes` needs.
  std::uint64_t l1_needed(std::uint64_t bytes) const { return bytes / l2_reach() + (bytes % l2_reach() != 0); }

  /// First byte and length of a compressed cluster; `entry` has kCompressed.
  struct CompressedPlace {
    std::uint64_t offset, length;
  };
  CompressedPlace compressed_place(std::uint64_t entry) const;
  std::uint64_t compressed_entry(std::uint64_t offset, std::uint64_t length) const;
};

/// Checks every field that anything else relies on. `start` is the image's first cluster or what there is of it, and at
/// least its first 64 KiB if the file has them. Encryption and features unknown here are refused by name.
Result<Header> parse_header(std::span<const std::uint8_t> start, const std::string& name);
/// The first cluster: header, extensions, feature names, backing name. Fails if they do not fit.
Result<std::vector<std::uint8_t>> serialize_header(Header& header);

struct Snapshot {
  std::string id, name;
  std::uint64_t l1_offset = 0;
  std::uint32_t l1_size = 0;  ///< entries
  std::uint32_t seconds = 0, nanoseconds = 0;
  std::uint64_t vm_clock = 0;       ///< ns
  std::uint64_t vm_state_size = 0;  ///< bytes
  std::uint64_t disk_size = 0;      ///< bytes; in extra data, so absent (= header's) in old images
  std::uint64_t instruction_count = ~std::uint64_t{0};
  std::vector<std::uint8_t> further;  ///< extra data not known here
};

/// `table` is what follows the snapshot table's offset; `consumed` is the table's length.
Result<std::vector<Snapshot>> parse_snapshots(const Header& header, std::span<const std::uint8_t> table,
                                              std::uint64_t& consumed);
std::vector<std::uint8_t> serialize_snapshots(const std::vector<Snapshot>& snapshots);

/// Refcount `index` of a block (or a piece of one that starts at entry 0); width 1 << order bits.
std::uint64_t get_refcount(const std::uint8_t* block, std::uint64_t index, unsigned order);
void set_refcount(std::uint8_t* block, std::uint64_t index, unsigned order, std::uint64_t value);

}  // namespace husk::block::qcow2
