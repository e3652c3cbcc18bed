// husk: qcow2 images at rest: counting references, checking, and new tables that take effect all at once
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "block/context.h"
#include "block/node.h"
#include "block/qcow2.h"
#include "block/qcow2_format.h"

namespace husk::block::qcow2 {

/// Straight-line access to a node, by Context::wait(), or on a thread of the context's workers by wait_on_worker().
class Disk {
 public:
  Disk(Context& context, Node& node, bool on_worker = false) : context_(context), node_(node), on_worker_(on_worker) {}
  Node& node() { return node_; }
  Status read(std::uint64_t offset, std::span<std::uint8_t> to);
  Status write(std::uint64_t offset, std::span<const std::uint8_t> from);
  Status discard(std::uint64_t offset, std::uint64_t length);
  Status flush();

 private:
  int wait(const std::function<void(core::BlockCompletion)>& start) {
    return on_worker_ ? context_.wait_on_worker(start) : context_.wait(start);
  }
  Context& context_;
  Node& node_;
  const bool on_worker_;
};

/// The header in the file's first cluster.
Result<Header> read_header(Disk& file);
/// L1 table, refcount table and snapshot list.
Result<Metadata> read_metadata(Disk& file, Header header);

/// How often clusters are referred to; sparse, and bounded in memory whatever an image claims.
class ReferenceMap {
 public:
  /// False if there is no more memory for it (kMostBytes).
  bool add(std::uint64_t cluster, std::uint64_t count = 1);
  std::uint64_t get(std::uint64_t cluster) const;
  void set(std::uint64_t cluster, std::uint32_t count);
  /// One past the last cluster that was ever added.
  std::uint64_t end() const { return end_; }
  /// Calls `visit` for each chunk of kChunk clusters that has one, in no order.
  static constexpr std::uint64_t kChunk = 512;
  const std::unordered_map<std::uint64_t, std::vector<std::uint32_t>>& chunks() const { return chunks_; }

 private:
  static constexpr std::uint64_t kMostBytes = 768u << 20;
  std::unordered_map<std::uint64_t, std::vector<std::uint32_t>> chunks_;
  std::uint64_t end_ = 0;
};

/// As `qemu-img check` counts.
struct CheckReport {
  std::uint64_t corruptions = 0, leaks = 0, check_errors = 0;
  std::uint64_t corruptions_fixed = 0, leaks_fixed = 0;
  std::uint64_t total_clusters = 0, allocated_clusters = 0, fragmented_clusters = 0, compressed_clusters = 0;
  std::uint64_t image_end = 0;        ///< bytes; one past the last cluster in use
  std::vector<std::string> messages;  ///< the first kMostMessages
  static constexpr std::size_t kMostMessages = 1000;
};

enum class Repair { none, leaks, all };

/// Reads all tables and compares them with each other. `progress` gets shares of 1. Repairs as asked.
Result<CheckReport> check(Disk& file, Metadata& meta, Repair repair, const std::function<void(double)>& progress = {});

/// What an image shall become. Clusters keep their place; tables may move.
struct Plan {
  Header header;                    ///< places and counts of tables are filled in
  std::vector<std::uint64_t> l1{};  ///< offsets of L2 tables; flags are filled in
  struct Kept {
    Snapshot snapshot;
    /// Empty: its L1 table stays where it is. Else it is written anew.
    std::vector<std::uint64_t> l1;
    bool rewrite = false;
  };
  std::vector<Kept> snapshots{};
  /// Changes the L2 table of an active L1 entry; returns true if it did. Must give the same each time.
  std::function<bool(std::uint64_t l1_index, std::span<std::uint8_t> table)> edit{};
  /// Entries that cannot be right become unallocated, rather than an error.
  bool mend = false;
};

/// Writes all that changes into clusters that nothing refers to, waits until it is stable, and then writes the header:
/// the image is the old one or the new one, whenever it ends. `current` becomes the new state. Refcounts are counted
/// anew.
Status rewrite(Disk& file, Metadata& current, Plan plan);

struct CreateOptions {
  std::uint64_t size = 0;
  std::uint32_t version = 3;
  unsigned cluster_bits = 16;
  unsigned refcount_order = 4;
  bool lazy_refcounts = false;
  bool extended_l2 = false;
  Compression compression = Compression::zlib;
  std::string backing_file, backing_format;
  std::string data_file;
  bool raw_data_file = false;
};

/// An empty image in `file`, whose content is lost.
Status create(Disk& file, const CreateOptions& options);

}  // namespace husk::block::qcow2
