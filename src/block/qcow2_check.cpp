// husk: `husk img check` of qcow2: the tables against each other, and repair
#include <algorithm>
#include <set>

#include "base/bits.h"
#include "block/qcow2_walk.h"

namespace husk::block::qcow2 {
namespace {

class Checker {
 public:
  Checker(Disk& file, Metadata& meta, const std::function<void(double)>& progress)
      : file_(file), meta_(meta), cluster_(meta.header.cluster_size()), progress_(progress) {}

  Result<CheckReport> run() {
    Walk walk(file_, meta_.header, references_);
    walk.tolerate = true;
    walk.report = &report_;
    walk.progress = progress_;
    HUSK_TRY(walk.everything(meta_));
    HUSK_TRY(read_counts());
    compare();
    HUSK_TRY(compare_flags());
    report_.total_clusters = (meta_.header.size + cluster_ - 1) / cluster_;
    report_.image_end = references_.end() * cluster_;
    return std::move(report_);
  }

  /// Sets the counts that are too high to what they should be. Only of blocks that are where they should be.
  Status drop_leaks() {
    const std::uint64_t entries = meta_.header.refcount_block_entries();
    const unsigned order = meta_.header.refcount_order;
    std::vector<std::uint8_t> content(cluster_);
    for (std::uint64_t block = 0; block < meta_.refcount_table.size(); ++block) {
      const std::uint64_t offset = meta_.refcount_table[block] & kRefcountOffsetMask;
      if (!readable_.contains(offset)) continue;
      HUSK_TRY(file_.read(offset, content));
      bool changed = false;
      for (std::uint64_t n = 0; n < entries; ++n) {
        const std::uint64_t wanted = references_.get(block * entries + n);
        if (get_refcount(content.data(), n, order) <= wanted) continue;
        set_refcount(content.data(), n, order, wanted);
        changed = true;
      }
      if (changed) HUSK_TRY(file_.write(offset, content));
    }
    return file_.flush();
  }

 private:
  void error(std::string text) {
    ++report_.corruptions;
    say("ERROR " + std::move(text));
  }
  void say(std::string text) {
    if (report_.messages.size() < CheckReport::kMostMessages) report_.messages.push_back(std::move(text));
  }

  Status read_counts() {
    const std::uint64_t entries = meta_.header.refcount_block_entries();
    std::vector<std::uint8_t> content(cluster_);
    Walk walk(file_, meta_.header, references_);
    for (std::uint64_t block = 0; block < meta_.refcount_table.size(); ++block) {
      const std::uint64_t offset = meta_.refcount_table[block] & kRefcountOffsetMask;
      // Where it cannot be, the walk has said so.
      if (offset == 0 || !walk.plausible(offset, cluster_)) continue;
      if (!readable_.insert(offset).second) {
        error(fmt::format("refcount block {} at {:#x} is used twice", block, offset));
        continue;
      }
      HUSK_TRY(file_.read(offset, content));
      for (std::uint64_t n = 0; n < entries; ++n) {
        const std::uint64_t count = get_refcount(content.data(), n, meta_.header.refcount_order);
        if (count != 0 && !counts_.add(block * entries + n, count))
          return fail("'{}' counts too many clusters to hold them in memory", file_.node().name());
      }
    }
    return {};
  }

  void compare() {
    std::set<std::uint64_t> chunks;
    for (const auto& [chunk, values] : references_.chunks()) chunks.insert(chunk);
    for (const auto& [chunk, values] : counts_.chunks()) chunks.insert(chunk);
    for (const std::uint64_t chunk : chunks) {
      for (std::uint64_t n = 0; n < ReferenceMap::kChunk; ++n) {
        const std::uint64_t cluster = chunk * ReferenceMap::kChunk + n;
        const std::uint64_t counted = counts_.get(cluster), wanted = references_.get(cluster);
        if (counted == wanted) continue;
        if (counted > wanted) {
          ++report_.leaks;
          say(fmt::format("Leaked cluster {} refcount={} reference={}", cluster, counted, wanted));
        } else {
          error(fmt::format("cluster {} refcount={} reference={}", cluster, counted, wanted));
        }
      }
    }
  }

  Status compare_flags() {
    const unsigned step = meta_.header.l2_entry_bytes();
    std::vector<std::uint8_t> table(cluster_);
    std::set<std::uint64_t> seen;
    Walk walk(file_, meta_.header, references_);
    for (std::size_t i = 0; i < meta_.l1.size(); ++i) {
      const std::uint64_t offset = meta_.l1[i] & kOffsetMask;
      if (offset == 0 || !walk.plausible(offset, cluster_) || !seen.insert(offset).second) continue;
      if ((counts_.get(offset / cluster_) == 1) != ((meta_.l1[i] & kCopied) != 0))
        error(fmt::format("OFLAG_COPIED L2 cluster: l1_index={} l1_entry={:x} refcount={}", i, meta_.l1[i],
                          counts_.get(offset / cluster_)));
      HUSK_TRY(file_.read(offset, table));
      for (std::size_t at = 0; at < cluster_; at += step) {
        const auto word = load_be<std::uint64_t>(&table[at]);
        if ((word & kCompressed) && (word & kCopied)) {
          error(fmt::format("OFLAG_COPIED compressed cluster: l2_entry={:x}", word));
          continue;
        }
        const std::uint64_t data = word & kOffsetMask;
        if ((word & kCompressed) || data == 0 || meta_.header.external_data() || data % cluster_ != 0) continue;
        const std::uint64_t count = counts_.get(data / cluster_);
        if ((count == 1) != ((word & kCopied) != 0))
          error(fmt::format("OFLAG_COPIED data cluster: l2_entry={:x} refcount={}", word, count));
      }
    }
    return {};
  }

  Disk& file_;
  Metadata& meta_;
  const std::uint64_t cluster_;
  const std::function<void(double)>& progress_;
  CheckReport report_;
  ReferenceMap references_, counts_;
  std::set<std::uint64_t> readable_;
};

}  // namespace

Result<CheckReport> check(Disk& file, Metadata& meta, Repair repair, const std::function<void(double)>& progress) {
  Checker checker(file, meta, progress);
  CheckReport first = HUSK_TRY(checker.run());
  const bool marked = (meta.header.incompatible & (kDirty | kCorrupt)) != 0;
  const bool all = repair == Repair::all && (first.corruptions > 0 || first.leaks > 0 || marked);
  if (!all && (repair == Repair::none || first.leaks == 0)) return first;
  if (all) {
    Plan plan;
    plan.header = meta.header;
    plan.header.incompatible &= ~(kDirty | kCorrupt);
    plan.l1 = meta.l1;
    plan.mend = true;
    for (const Snapshot& snapshot : meta.snapshots) {
      Plan::Kept kept{snapshot, {}, false};
      ReferenceMap none;
      Walk walk(file, meta.header, none);
      if (snapshot.l1_size > 0 && !walk.plausible(snapshot.l1_offset, std::uint64_t{snapshot.l1_size} * 8)) {
        kept.l1.assign(snapshot.l1_size, 0);
        kept.rewrite = true;
      }
      plan.snapshots.push_back(std::move(kept));
    }
    HUSK_TRY(rewrite(file, meta, std::move(plan)));
  } else {
    HUSK_TRY(checker.drop_leaks());
  }
  const std::function<void(double)> nothing;
  CheckReport second = HUSK_TRY(Checker(file, meta, nothing).run());
  second.corruptions_fixed = first.corruptions - std::min(first.corruptions, second.corruptions);
  second.leaks_fixed = first.leaks - std::min(first.leaks, second.leaks);
  first.messages.insert(first.messages.end(), second.messages.begin(), second.messages.end());
  second.messages = std::move(first.messages);
  return second;
}

}  // namespace husk::block::qcow2
