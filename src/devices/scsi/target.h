// husk: a SCSI target: the logical units behind one address
#pragma once

#include <map>
#include <memory>

#include "devices/scsi/unit.h"

namespace husk::devices::scsi {

/// Answers for the logical units that are not there, and REPORT LUNS for all (SPC-4, 6.33).
class Target {
 public:
  static constexpr unsigned kMostLun = 16383;
  /// The unit outlives its being in the target.
  void add(unsigned lun, LogicalUnit& unit) { units_[lun] = &unit; }
  void remove(unsigned lun) { units_.erase(lun); }
  bool empty() const { return units_.empty(); }
  /// Null if there is none.
  LogicalUnit* unit(unsigned lun) const;
  void execute(unsigned lun, CommandPtr command);

 private:
  void report_luns(const CommandPtr& command);
  std::map<unsigned, LogicalUnit*> units_;
};

}  // namespace husk::devices::scsi
