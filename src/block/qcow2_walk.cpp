// husk: walks over all tables of a qcow2 image at rest and counts what refers to what
#include "block/qcow2_walk.h"

#include <algorithm>
#include <optional>
#include <set>

#include "base/bits.h"

namespace husk::block::qcow2 {
namespace {
constexpr std::uint64_t kMostNoted = (1u << 30) / 8;  // entries of all L1 tables together
}

bool Walk::plausible(std::uint64_t offset, std::uint64_t length) const {
  // A hole at the end of the file need not be there.
  const std::uint64_t end = align_up(file_.node().info().size, cluster_) + cluster_;
  return offset != 0 && offset % cluster_ == 0 && range_within(offset, length, end);
}

Status Walk::wrong(const std::string& what) {
  if (report != nullptr) {
    ++report->corruptions;
    if (report->messages.size() < CheckReport::kMostMessages) report->messages.push_back("ERROR " + what);
  }
  if (tolerate) return {};
  return std::unexpected(
      Error{fmt::format("'{}' is damaged: {}", file_.node().name(), what), "look at it with 'husk img check'"});
}

Status Walk::use(std::uint64_t offset, std::uint64_t length, std::uint64_t times, const char* what) {
  if (length == 0) return {};
  if (!range_within(offset, length, align_up(file_.node().info().size, cluster_) + cluster_))
    return wrong(fmt::format("{} at {:#x} with {:#x} bytes is beyond the end of the file", what, offset, length));
  for (std::uint64_t at = align_down(offset, cluster_); at < offset + length; at += cluster_)
    if (!counts_.add(at / cluster_, times))
      return fail("the tables of '{}' refer to too many places to count them in memory", file_.node().name());
  return {};
}

Result<std::vector<std::uint64_t>> Walk::read_l1(std::uint64_t offset, std::uint64_t entries) {
  std::vector<std::uint64_t> table;
  if (entries == 0) return table;
  if (!plausible(offset, entries * 8)) {
    HUSK_TRY(wrong(fmt::format("an L1 table of {} entries at {:#x} is beyond the end of the file", entries, offset)));
    return table;
  }
  std::vector<std::uint8_t> bytes(entries * 8);
  HUSK_TRY(file_.read(offset, bytes));
  table.resize(entries);
  for (std::size_t i = 0; i < entries; ++i) table[i] = load_be<std::uint64_t>(&bytes[i * 8]);
  return table;
}

Status Walk::note_l1(std::span<const std::uint64_t> entries) {
  noted_entries_ += entries.size();
  if (noted_entries_ > kMostNoted) return fail("the L1 tables of '{}' are too large together", file_.node().name());
  const auto named =
      std::count_if(entries.begin(), entries.end(), [](std::uint64_t entry) { return (entry & kOffsetMask) != 0; });
  HUSK_TRY(credible(static_cast<std::uint64_t>(named), "L2 tables"));
  std::set<std::uint64_t> seen;
  for (const std::uint64_t entry : entries) {
    const std::uint64_t table = entry & kOffsetMask;
    if (table == 0) continue;
    if (!plausible(table, cluster_)) {
      HUSK_TRY(wrong(fmt::format("an L2 table is said to be at {:#x}", table)));
      continue;
    }
    if (!seen.insert(table).second) {
      HUSK_TRY(wrong(fmt::format("the L2 table at {:#x} is used twice in one L1 table", table)));
      continue;
    }
    HUSK_TRY(use(table, cluster_, 1, "an L2 table"));
    ++noted_[table];
  }
  return credible(noted_.size(), "L2 tables");
}

/// Tables take space. An image that claims far more of them than its file has bytes would keep the walk in holes for
/// hours. The file system may compress, but not by that much.
Status Walk::credible(std::uint64_t tables, const char* what) {
  constexpr std::uint64_t kCompression = 64;
  constexpr std::uint64_t kAlways = 64u << 20;
  const std::optional<std::uint64_t> there = file_.node().allocated_bytes();
  if (!there || tables * (cluster_ / kCompression) <= *there + kAlways) return {};
  return fail("'{}' claims {} {} of {} bytes, but its file holds only {} bytes", file_.node().name(), tables, what,
              cluster_, *there);
}

Status Walk::noted_tables(std::span<const std::uint64_t> active) {
  std::vector<std::uint8_t> table(cluster_);
  std::size_t done = 0;
  const std::size_t all = noted_.size();
  // The active ones in the disk's order, so that fragments can be told.
  for (const std::uint64_t entry : active) {
    const auto found = noted_.find(entry & kOffsetMask);
    if (found == noted_.end()) continue;
    HUSK_TRY(file_.read(found->first, table));
    HUSK_TRY(l2(table, found->second, true));
    noted_.erase(found);
    if (progress) progress(static_cast<double>(++done) / static_cast<double>(all));
  }
  for (const auto& [offset, times] : noted_) {
    HUSK_TRY(file_.read(offset, table));
    HUSK_TRY(l2(table, times, false));
    if (progress) progress(static_cast<double>(++done) / static_cast<double>(all));
  }
  noted_.clear();
  return {};
}

bool Walk::l2_entry_right(std::uint64_t word, std::uint64_t bitmap) const {
  if (word & kCompressed) {
    const auto place = header_.compressed_place(word);
    return !header_.external_data() && place.offset >= cluster_ &&
           range_within(place.offset, place.length, align_up(file_.node().info().size, cluster_) + cluster_);
  }
  const std::uint64_t offset = word & kOffsetMask;
  if (offset % cluster_ != 0) return false;
  if (header_.extended_l2()) {
    const std::uint64_t data = bitmap & mask_of(kSubclusters), zero = bitmap >> kSubclusters;
    if ((data & zero) != 0) return false;
    if (data != 0 && offset == 0 && !header_.external_data()) return false;
  }
  return header_.external_data() || offset == 0 || plausible(offset, cluster_);
}

bool Walk::mend_l2(std::span<std::uint8_t> table) const {
  bool mended = false;
  const std::size_t step = header_.l2_entry_bytes();
  for (std::size_t at = 0; at < table.size(); at += step) {
    const auto word = load_be<std::uint64_t>(&table[at]);
    const auto bitmap = step == 16 ? load_be<std::uint64_t>(&table[at + 8]) : 0;
    if (l2_entry_right(word, bitmap)) continue;
    std::fill_n(&table[at], step, std::uint8_t{0});
    mended = true;
  }
  return mended;
}

Status Walk::l2(std::span<const std::uint8_t> table, std::uint64_t times, bool active) {
  const std::size_t step = header_.l2_entry_bytes();
  for (std::size_t at = 0; at < table.size(); at += step) {
    const auto word = load_be<std::uint64_t>(&table[at]);
    const auto bitmap = step == 16 ? load_be<std::uint64_t>(&table[at + 8]) : 0;
    if (word == 0 && bitmap == 0) continue;
    if (!l2_entry_right(word, bitmap)) {
      HUSK_TRY(wrong(fmt::format("the L2 entry {:#x} (bitmap {:#x}) cannot be right", word, bitmap)));
      continue;
    }
    if (word & kCompressed) {
      const auto place = header_.compressed_place(word);
      HUSK_TRY(use(place.offset, place.length, times, "a compressed cluster"));
      if (report != nullptr && active) {
        ++report->allocated_clusters;
        ++report->compressed_clusters;
        // As qemu-img counts: every compressed cluster is a fragment.
        ++report->fragmented_clusters;
      }
      continue;
    }
    const std::uint64_t offset = word & kOffsetMask;
    const bool there = offset != 0 || (header_.external_data() && (word & kCopied));
    if (!there) continue;
    if (report != nullptr && active) {
      ++report->allocated_clusters;
      if (contiguous_ != 0 && offset != contiguous_) ++report->fragmented_clusters;
      contiguous_ = offset + cluster_;
    }
    if (!header_.external_data()) HUSK_TRY(use(offset, cluster_, times, "a data cluster"));
  }
  return {};
}

Status Walk::bitmaps() {
  if ((header_.autoclear & kBitmaps) == 0) return {};
  for (const Extension& extension : header_.extensions) {
    if (extension.type != kExtensionBitmaps || extension.data.size() < 24) continue;
    const auto count = load_be<std::uint32_t>(&extension.data[0]);
    const auto length = load_be<std::uint64_t>(&extension.data[8]);
    const auto offset = load_be<std::uint64_t>(&extension.data[16]);
    if (length > (std::uint64_t{64} << 20) || !plausible(offset, length)) {
      HUSK_TRY(wrong(fmt::format("a bitmap directory of {} bytes at {:#x}", length, offset)));
      continue;
    }
    HUSK_TRY(use(offset, length, 1, "the bitmap directory"));
    std::vector<std::uint8_t> directory(length);
    HUSK_TRY(file_.read(offset, directory));
    std::size_t at = 0;
    for (std::uint32_t n = 0; n < count && directory.size() - at >= 24; ++n) {
      const std::uint8_t* entry = &directory[at];
      const auto table_offset = load_be<std::uint64_t>(entry);
      const auto table_size = load_be<std::uint32_t>(entry + 8);
      const auto name_size = load_be<std::uint16_t>(entry + 18);
      const auto extra = load_be<std::uint32_t>(entry + 20);
      const std::uint64_t size = align_up<std::uint64_t>(24 + std::uint64_t{extra} + name_size, 8);
      if (size > directory.size() - at) break;
      at += size;
      const auto table = HUSK_TRY(read_l1(table_offset, std::min<std::uint32_t>(table_size, 1u << 27)));
      if (table.empty()) continue;
      HUSK_TRY(use(table_offset, table.size() * 8, 1, "a bitmap table"));
      for (const std::uint64_t word : table)
        if (word & kOffsetMask) HUSK_TRY(use(word & kOffsetMask, cluster_, 1, "a bitmap"));
    }
  }
  return {};
}

Status Walk::everything(const Metadata& meta) {
  HUSK_TRY(use(0, cluster_, 1, "the header"));
  HUSK_TRY(use(header_.refcount_table_offset, std::uint64_t{header_.refcount_table_clusters} * cluster_, 1,
               "the refcount table"));
  const auto blocks = std::count_if(meta.refcount_table.begin(), meta.refcount_table.end(),
                                    [](std::uint64_t entry) { return (entry & kRefcountOffsetMask) != 0; });
  HUSK_TRY(credible(static_cast<std::uint64_t>(blocks), "refcount blocks"));
  for (const std::uint64_t entry : meta.refcount_table) {
    const std::uint64_t block = entry & kRefcountOffsetMask;
    if (block == 0) continue;
    if (plausible(block, cluster_))
      HUSK_TRY(use(block, cluster_, 1, "a refcount block"));
    else
      HUSK_TRY(wrong(fmt::format("a refcount block is said to be at {:#x}", block)));
  }
  HUSK_TRY(use(header_.l1_offset, meta.l1.size() * 8, 1, "the L1 table"));
  HUSK_TRY(note_l1(meta.l1));
  HUSK_TRY(use(header_.snapshots_offset, meta.snapshot_table_bytes, 1, "the snapshot table"));
  for (const Snapshot& snapshot : meta.snapshots) {
    HUSK_TRY(use(snapshot.l1_offset, std::uint64_t{snapshot.l1_size} * 8, 1, "a snapshot's L1 table"));
    HUSK_TRY(note_l1(HUSK_TRY(read_l1(snapshot.l1_offset, snapshot.l1_size))));
  }
  HUSK_TRY(noted_tables(meta.l1));
  return bitmaps();
}

}  // namespace husk::block::qcow2
