// husk: qcow2 images at rest: new tables that take effect all at once
#include "block/qcow2_surgery.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>
#include <set>

#include "base/bits.h"
#include "base/check.h"
#include "block/qcow2_walk.h"

namespace husk::block::qcow2 {

Status Disk::read(std::uint64_t offset, std::span<std::uint8_t> to) {
  const core::BlockSpan span = to;
  const int error = wait([&](core::BlockCompletion done) {
    node_.submit({.op = core::BlockOp::read,
                  .flags = 0,
                  .offset = offset,
                  .length = to.size(),
                  .spans = {&span, 1},
                  .completion = std::move(done)});
  });
  if (error != 0)
    return fail_errno(error, fmt::format("cannot read {} bytes at {:#x} of '{}'", to.size(), offset, node_.name()));
  return {};
}

Status Disk::write(std::uint64_t offset, std::span<const std::uint8_t> from) {
  const core::BlockSpan span(const_cast<std::uint8_t*>(from.data()), from.size());  // a write only reads it
  const int error = wait([&](core::BlockCompletion done) {
    node_.submit({.op = core::BlockOp::write,
                  .flags = 0,
                  .offset = offset,
                  .length = from.size(),
                  .spans = {&span, 1},
                  .completion = std::move(done)});
  });
  if (error != 0)
    return fail_errno(error, fmt::format("cannot write {} bytes at {:#x} of '{}'", from.size(), offset, node_.name()));
  return {};
}

Status Disk::discard(std::uint64_t offset, std::uint64_t length) {
  const int error = wait([&](core::BlockCompletion done) {
    node_.submit({.op = core::BlockOp::discard,
                  .flags = 0,
                  .offset = offset,
                  .length = length,
                  .spans = {},
                  .completion = std::move(done)});
  });
  if (error != 0)
    return fail_errno(error, fmt::format("cannot discard {} bytes at {:#x} of '{}'", length, offset, node_.name()));
  return {};
}

Status Disk::flush() {
  const int error = wait([&](core::BlockCompletion done) {
    node_.submit(
        {.op = core::BlockOp::flush, .flags = 0, .offset = 0, .length = 0, .spans = {}, .completion = std::move(done)});
  });
  if (error != 0) return fail_errno(error, fmt::format("cannot flush '{}'", node_.name()));
  return {};
}

Result<Header> read_header(Disk& file) {
  std::vector<std::uint8_t> start(std::min<std::uint64_t>(file.node().info().size, 64 * 1024));
  HUSK_TRY(file.read(0, start));
  // A larger header cluster matters only where the extensions reach beyond 64 KiB.
  return parse_header(start, file.node().name());
}

Result<Metadata> read_metadata(Disk& file, Header header) {
  Metadata meta;
  const std::string& name = file.node().name();
  const auto read_table = [&](std::uint64_t offset, std::uint64_t entries) -> Result<std::vector<std::uint64_t>> {
    std::vector<std::uint8_t> bytes(entries * 8);
    HUSK_TRY(file.read(offset, bytes));
    std::vector<std::uint64_t> table(entries);
    for (std::size_t i = 0; i < entries; ++i) table[i] = load_be<std::uint64_t>(&bytes[i * 8]);
    return table;
  };
  const std::uint64_t end = align_up(file.node().info().size, header.cluster_size());
  if (!range_within(header.l1_offset, std::uint64_t{header.l1_size} * 8, end))
    return fail("the L1 table of '{}' ({} entries at {:#x}) is beyond the end of the file", name, header.l1_size,
                header.l1_offset);
  if (!range_within(header.refcount_table_offset, std::uint64_t{header.refcount_table_clusters} * header.cluster_size(),
                    end))
    return fail("the refcount table of '{}' ({} clusters at {:#x}) is beyond the end of the file", name,
                header.refcount_table_clusters, header.refcount_table_offset);
  meta.l1 = HUSK_TRY(read_table(header.l1_offset, header.l1_size));
  meta.refcount_table = HUSK_TRY(read_table(header.refcount_table_offset,
                                            std::uint64_t{header.refcount_table_clusters} * header.cluster_size() / 8));
  if (header.snapshot_count > 0) {
    const std::uint64_t size = file.node().info().size;
    if (header.snapshots_offset >= size) return fail("the snapshot table of '{}' is beyond the end of the file", name);
    const std::uint64_t most = std::min(size - header.snapshots_offset, kMostSnapshotTableBytes);
    // Rarely more than this; if it is, take what there is.
    std::vector<std::uint8_t> table(std::min<std::uint64_t>(most, 65536 + std::uint64_t{header.snapshot_count} * 512));
    HUSK_TRY(file.read(header.snapshots_offset, table));
    std::uint64_t consumed = 0;
    auto parsed = parse_snapshots(header, table, consumed);
    if (!parsed && table.size() < most) {
      table.resize(most);
      HUSK_TRY(file.read(header.snapshots_offset, table));
      parsed = parse_snapshots(header, table, consumed);
    }
    if (!parsed) return std::unexpected(std::move(parsed).error().within(fmt::format("'{}'", name)));
    meta.snapshots = *std::move(parsed);
    meta.snapshot_table_bytes = consumed;
  }
  meta.header = std::move(header);
  return meta;
}

bool ReferenceMap::add(std::uint64_t cluster, std::uint64_t count) {
  std::vector<std::uint32_t>& chunk = chunks_[cluster / kChunk];
  if (chunk.empty()) {
    if ((chunks_.size() + 1) * kChunk * sizeof(std::uint32_t) > kMostBytes) return false;
    chunk.resize(kChunk);
  }
  std::uint32_t& value = chunk[cluster % kChunk];
  value = static_cast<std::uint32_t>(std::min<std::uint64_t>(value + count, UINT32_MAX));
  end_ = std::max(end_, cluster + 1);
  return true;
}

std::uint64_t ReferenceMap::get(std::uint64_t cluster) const {
  const auto found = chunks_.find(cluster / kChunk);
  return found == chunks_.end() || found->second.empty() ? 0 : found->second[cluster % kChunk];
}

void ReferenceMap::set(std::uint64_t cluster, std::uint32_t count) {
  const auto found = chunks_.find(cluster / kChunk);
  if (found == chunks_.end() || found->second.empty()) {
    if (count > 0) add(cluster, count);
    return;
  }
  found->second[cluster % kChunk] = count;
  if (count > 0) end_ = std::max(end_, cluster + 1);
}

namespace {

/// One rewrite on its way.
class Rewriter {
 public:
  Rewriter(Disk& file, Metadata& current, Plan plan)
      : file_(file),
        current_(current),
        plan_(std::move(plan)),
        header_(plan_.header),
        cluster_(header_.cluster_size()) {}

  Status run() {
    HUSK_TRY(count());
    HUSK_TRY(move_tables());
    HUSK_TRY(place_lists());
    HUSK_TRY(write_refcounts());
    HUSK_TRY(file_.flush());
    const std::vector<std::uint8_t> start = HUSK_TRY(serialize_header(header_));
    // The fields that matter lie within the first sector: they change together.
    HUSK_TRY(file_.write(0, start));
    HUSK_TRY(file_.flush());
    Metadata next;
    next.header = header_;
    next.snapshot_table_bytes = snapshot_table_bytes_;
    next.l1 = plan_.l1;
    next.refcount_table = std::move(refcount_table_);
    for (const Plan::Kept& kept : plan_.snapshots) next.snapshots.push_back(kept.snapshot);
    current_ = std::move(next);
    return give_back();
  }

 private:
  Status too_large() const {
    return fail("the tables of '{}' refer to too many places to count them in memory", file_.node().name());
  }

  Status use(std::uint64_t offset, std::uint64_t length) {
    for (std::uint64_t at = align_down(offset, cluster_); at < offset + length; at += cluster_)
      if (!counts_.add(at / cluster_)) return too_large();
    return {};
  }

  Status count() {
    // What there is now must not be overwritten before the header has changed; that includes what is in use wrongly.
    if (current_.header.l1_offset != 0 || current_.header.refcount_table_offset != 0) {
      Walk walk(file_, current_.header, old_);
      walk.tolerate = plan_.mend;
      HUSK_TRY(walk.everything(current_));
    } else if (!old_.add(0)) {
      return too_large();
    }
    HUSK_TRY(use(0, cluster_));
    Walk walk(file_, header_, counts_);
    walk.tolerate = plan_.mend;
    std::vector<std::uint8_t> table(cluster_);
    for (std::size_t i = 0; i < plan_.l1.size(); ++i) {
      if (plan_.mend && !walk.plausible(plan_.l1[i] & kOffsetMask, cluster_)) plan_.l1[i] = 0;
      plan_.l1[i] &= kOffsetMask;
      if (plan_.l1[i] == 0) continue;
      HUSK_TRY(read_l2(i, table));
      if (!edits_.contains(i)) HUSK_TRY(use(plan_.l1[i], cluster_));
      HUSK_TRY(walk.l2(table, 1, false));
    }
    for (Plan::Kept& kept : plan_.snapshots) {
      if (kept.rewrite) {
        for (std::uint64_t& entry : kept.l1) {
          if (plan_.mend && !walk.plausible(entry & kOffsetMask, cluster_)) entry = 0;
        }
        HUSK_TRY(walk.note_l1(kept.l1));
      } else {
        HUSK_TRY(use(kept.snapshot.l1_offset, std::uint64_t{kept.snapshot.l1_size} * 8));
        const auto kept_l1 = HUSK_TRY(walk.read_l1(kept.snapshot.l1_offset, kept.snapshot.l1_size));
        for (const std::uint64_t entry : kept_l1) kept_tables_.insert(entry & kOffsetMask);
        HUSK_TRY(walk.note_l1(kept_l1));
      }
    }
    HUSK_TRY(walk.noted_tables());
    return walk.bitmaps();
  }

  /// The L2 table of an active entry as it shall be, flags apart.
  Status read_l2(std::uint64_t index, std::vector<std::uint8_t>& table) {
    HUSK_TRY(file_.read(plan_.l1[index], table));
    bool edited = false;
    if (plan_.mend) edited = Walk(file_, header_, counts_).mend_l2(table);
    if (plan_.edit && plan_.edit(index, table)) edited = true;
    if (edited) edits_.insert(index);
    return {};
  }

  /// New places for the active L2 tables that change, be it in a flag only.
  Status move_tables() {
    std::vector<std::uint8_t> table(cluster_);
    std::map<std::uint64_t, std::uint64_t> moved;
    const unsigned step = header_.l2_entry_bytes();
    for (std::size_t i = 0; i < plan_.l1.size(); ++i) {
      if (plan_.l1[i] == 0) continue;
      const std::uint64_t old = plan_.l1[i];
      const bool edited = edits_.contains(i);
      if (!edited && moved.contains(old)) {
        plan_.l1[i] = moved[old];
        continue;
      }
      HUSK_TRY(read_l2(i, table));
      bool changed = edited;
      for (std::size_t at = 0; at < cluster_; at += step) {
        const auto word = load_be<std::uint64_t>(&table[at]);
        const bool has_cluster =
            !(word & kCompressed) && ((word & kOffsetMask) != 0 || (header_.external_data() && (word & kCopied)));
        const bool sole = has_cluster && (header_.external_data() || counts_.get((word & kOffsetMask) / cluster_) == 1);
        const std::uint64_t wanted = (word & ~kCopied) | (sole ? kCopied : 0);
        if (wanted == word) continue;
        store_be(&table[at], wanted);
        changed = true;
      }
      if (!changed) continue;
      if (!edited && kept_tables_.contains(old)) {
        // Wrong flags in a table that a snapshot shares: only a broken image has that, and there is nothing to lose.
        HUSK_TRY(file_.write(old, table));
        continue;
      }
      const std::uint64_t place = HUSK_TRY(allocate(1));
      HUSK_TRY(file_.write(place, table));
      if (edited) {
        counts_.set(place / cluster_, 1);
      } else {
        counts_.set(place / cluster_, static_cast<std::uint32_t>(counts_.get(old / cluster_)));
        counts_.set(old / cluster_, 0);
        moved[old] = place;
      }
      plan_.l1[i] = place;
    }
    for (Plan::Kept& kept : plan_.snapshots)
      for (std::uint64_t& entry : kept.l1)
        if (const auto found = moved.find(entry & kOffsetMask); found != moved.end()) entry = found->second;
    return {};
  }

  Status place_lists() {
    const auto with_flags = [&](std::vector<std::uint64_t>& table) {
      for (std::uint64_t& entry : table) {
        entry &= kOffsetMask;
        if (entry != 0 && counts_.get(entry / cluster_) == 1) entry |= kCopied;
      }
    };
    const auto write_l1 = [&](std::vector<std::uint64_t>& table) -> Result<std::uint64_t> {
      with_flags(table);
      std::vector<std::uint8_t> bytes(align_up<std::uint64_t>(std::max<std::uint64_t>(table.size() * 8, 1), cluster_));
      const std::uint64_t place = HUSK_TRY(allocate(bytes.size() / cluster_));
      for (std::size_t i = 0; i < table.size(); ++i) store_be(&bytes[i * 8], table[i]);
      HUSK_TRY(file_.write(place, bytes));
      return place;
    };
    header_.l1_offset = HUSK_TRY(write_l1(plan_.l1));
    header_.l1_size = static_cast<std::uint32_t>(plan_.l1.size());
    std::vector<Snapshot> list;
    for (Plan::Kept& kept : plan_.snapshots) {
      if (kept.rewrite) {
        kept.snapshot.l1_offset = HUSK_TRY(write_l1(kept.l1));
        kept.snapshot.l1_size = static_cast<std::uint32_t>(kept.l1.size());
      }
      list.push_back(kept.snapshot);
    }
    header_.snapshot_count = static_cast<std::uint32_t>(list.size());
    header_.snapshots_offset = 0;
    if (!list.empty()) {
      std::vector<std::uint8_t> bytes = serialize_snapshots(list);
      if (bytes.size() > kMostSnapshotTableBytes) return fail("the list of snapshots gets too long");
      snapshot_table_bytes_ = bytes.size();
      bytes.resize(align_up<std::uint64_t>(bytes.size(), cluster_));
      header_.snapshots_offset = HUSK_TRY(allocate(bytes.size() / cluster_));
      HUSK_TRY(file_.write(header_.snapshots_offset, bytes));
    }
    return {};
  }

  /// Adjacent clusters that neither the old image nor the new one uses.
  Result<std::uint64_t> allocate(std::uint64_t clusters) {
    std::uint64_t first = hint_;
    for (std::uint64_t n = 0; n < clusters;) {
      if (old_.get(first + n) != 0 || counts_.get(first + n) != 0) {
        first += n + 1;
        n = 0;
      } else {
        ++n;
      }
    }
    if (clusters == 1) hint_ = first + 1;
    for (std::uint64_t n = 0; n < clusters; ++n)
      if (!counts_.add(first + n)) return std::unexpected(too_large().error());
    return first * cluster_;
  }

  Status write_refcounts() {
    const std::uint64_t entries = header_.refcount_block_entries();
    std::map<std::uint64_t, std::uint64_t> blocks;  // block number: offset
    std::uint64_t table_offset = 0, table_clusters = 0;
    // Blocks and table count themselves, so what is placed may need a further block.
    while (true) {
      std::set<std::uint64_t> wanted;
      for (const auto& [chunk, values] : counts_.chunks()) {
        std::uint64_t last = ~std::uint64_t{0};
        for (std::uint64_t n = 0; n < values.size(); ++n) {
          const std::uint64_t block = (chunk * ReferenceMap::kChunk + n) / entries;
          if (values[n] != 0 && block != last) wanted.insert(last = block);
        }
      }
      bool added = false;
      for (const std::uint64_t block : wanted) {
        if (blocks.contains(block)) continue;
        blocks[block] = HUSK_TRY(allocate(1));
        added = true;
      }
      const std::uint64_t needed = align_up<std::uint64_t>((blocks.rbegin()->first + 1) * 8, cluster_) / cluster_;
      if (needed > table_clusters) {
        for (std::uint64_t n = 0; n < table_clusters; ++n) counts_.set(table_offset / cluster_ + n, 0);
        table_clusters = needed;
        if (table_clusters * cluster_ > std::max(kMostRefcountTableBytes, cluster_))
          return fail("'{}' gets too large for its refcount table", file_.node().name());
        table_offset = HUSK_TRY(allocate(table_clusters));
        added = true;
      }
      if (!added) break;
    }
    refcount_table_.assign(table_clusters * cluster_ / 8, 0);
    std::vector<std::uint8_t> content(cluster_);
    for (const auto& [block, offset] : blocks) {
      std::fill(content.begin(), content.end(), std::uint8_t{0});
      for (std::uint64_t n = 0; n < entries; ++n) {
        const std::uint64_t value = counts_.get(block * entries + n);
        if (value > header_.most_refcount())
          return std::unexpected(
              Error{fmt::format("a cluster of '{}' would get {} references; its refcounts of {} bits cannot count that",
                                file_.node().name(), value, 1u << header_.refcount_order),
                    "convert it to an image with wider refcounts (refcount_bits)"});
        if (value != 0) set_refcount(content.data(), n, header_.refcount_order, value);
      }
      HUSK_TRY(file_.write(offset, content));
      refcount_table_[block] = offset;
    }
    std::vector<std::uint8_t> bytes(table_clusters * cluster_);
    for (std::size_t i = 0; i < refcount_table_.size(); ++i) store_be(&bytes[i * 8], refcount_table_[i]);
    HUSK_TRY(file_.write(table_offset, bytes));
    header_.refcount_table_offset = table_offset;
    header_.refcount_table_clusters = static_cast<std::uint32_t>(table_clusters);
    return {};
  }

  /// The host gets back what the old image used and the new one does not.
  Status give_back() {
    if (!file_.node().info().can_discard) return {};
    std::uint64_t start = 0, length = 0;
    std::vector<std::uint64_t> chunks;
    for (const auto& [chunk, values] : old_.chunks()) chunks.push_back(chunk);
    std::sort(chunks.begin(), chunks.end());
    for (const std::uint64_t chunk : chunks) {
      for (std::uint64_t n = 0; n < ReferenceMap::kChunk; ++n) {
        const std::uint64_t cluster = chunk * ReferenceMap::kChunk + n;
        if (old_.get(cluster) == 0 || counts_.get(cluster) != 0) continue;
        if (length > 0 && start + length == cluster) {
          ++length;
          continue;
        }
        if (length > 0) HUSK_TRY(file_.discard(start * cluster_, length * cluster_));
        start = cluster;
        length = 1;
      }
    }
    if (length > 0) HUSK_TRY(file_.discard(start * cluster_, length * cluster_));
    return {};
  }

  Disk& file_;
  Metadata& current_;
  Plan plan_;
  Header header_;
  const std::uint64_t cluster_;
  ReferenceMap old_, counts_;
  std::set<std::uint64_t> edits_;
  std::set<std::uint64_t> kept_tables_;
  std::vector<std::uint64_t> refcount_table_;
  std::uint64_t hint_ = 1;
  std::uint64_t snapshot_table_bytes_ = 0;
};

}  // namespace

Status rewrite(Disk& file, Metadata& current, Plan plan) { return Rewriter(file, current, std::move(plan)).run(); }

Status create(Disk& file, const CreateOptions& options) {
  Plan plan;
  Header& h = plan.header;
  h.version = options.version;
  h.cluster_bits = options.cluster_bits;
  h.refcount_order = options.refcount_order;
  h.size = options.size;
  h.compression = options.compression;
  if (options.lazy_refcounts) h.compatible |= kLazyRefcounts;
  if (options.extended_l2) h.incompatible |= kExtendedL2;
  if (options.compression != Compression::zlib) h.incompatible |= kCompressionType;
  if (!options.data_file.empty()) h.incompatible |= kExternalData;
  if (options.raw_data_file) h.autoclear |= kRawExternalData;
  h.backing_file = options.backing_file;
  h.backing_format = options.backing_format;
  h.data_file = options.data_file;
  const std::uint64_t entries = h.l1_needed(options.size);
  if (options.size > INT64_MAX || entries * 8 > kMostL1Bytes)
    return std::unexpected(
        Error{fmt::format("a disk of {} bytes is too large for clusters of {} bytes", options.size, h.cluster_size()),
              "use a larger cluster_size"});
  plan.l1.resize(entries);
  Metadata nothing;
  nothing.header.cluster_bits = options.cluster_bits;
  return rewrite(file, nothing, std::move(plan));
}

}  // namespace husk::block::qcow2
