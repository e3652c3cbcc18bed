// husk: walks over all tables of a qcow2 image at rest and counts what refers to what
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "block/qcow2_surgery.h"

namespace husk::block::qcow2 {

/// Adds every reference to `counts`. An entry that cannot be right is an error, or, if `tolerate`, is left out.
class Walk {
 public:
  Walk(Disk& file, const Header& header, ReferenceMap& counts)
      : file_(file), header_(header), counts_(counts), cluster_(header.cluster_size()) {}
  bool tolerate = false;
  /// Gets a message for each entry left out, and the numbers of clusters.
  CheckReport* report = nullptr;
  std::function<void(double)> progress;

  /// Header, refcounts, L1, L2, data, snapshots and bitmaps of an image as it is.
  Status everything(const Metadata& meta);
  /// One L1 table: counts its L2 tables and notes them for noted_tables().
  Status note_l1(std::span<const std::uint64_t> entries);
  /// What the noted L2 tables refer to, each read once, as often as it was noted.
  Status noted_tables(std::span<const std::uint64_t> active = {});
  Status l2(std::span<const std::uint8_t> table, std::uint64_t times, bool active);
  Status bitmaps();
  Result<std::vector<std::uint64_t>> read_l1(std::uint64_t offset, std::uint64_t entries);

  /// At a cluster, not the first, and within the file.
  bool plausible(std::uint64_t offset, std::uint64_t length) const;
  /// Clears the entries that cannot be right; true if there were any.
  bool mend_l2(std::span<std::uint8_t> table) const;

 private:
  Status use(std::uint64_t offset, std::uint64_t length, std::uint64_t times, const char* what);
  Status wrong(const std::string& what);
  Status credible(std::uint64_t tables, const char* what);
  bool l2_entry_right(std::uint64_t word, std::uint64_t bitmap) const;

  Disk& file_;
  const Header& header_;
  ReferenceMap& counts_;
  const std::uint64_t cluster_;
  std::map<std::uint64_t, std::uint64_t> noted_;
  std::uint64_t noted_entries_ = 0;
  std::uint64_t contiguous_ = 0;
};

}  // namespace husk::block::qcow2
