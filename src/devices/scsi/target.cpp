// husk: a SCSI target
#include "devices/scsi/target.h"

#include <algorithm>

#include "base/bits.h"

namespace husk::devices::scsi {

namespace {
void finish(const CommandPtr& command) {
  auto done = std::move(command->done);
  command->done = nullptr;
  if (done) done();
}

void reply(const CommandPtr& command, std::span<const std::uint8_t> data, std::uint64_t allocation) {
  if (allocation > command->in_bytes)
    command->overrun = true;
  else
    command->write_in(data.first(static_cast<std::size_t>(std::min<std::uint64_t>(data.size(), allocation))));
  finish(command);
}

void fail(const CommandPtr& command, const Sense& sense) {
  command->status = CommandStatus::check_condition;
  command->sense = encode(sense, false);
  finish(command);
}
}  // namespace

LogicalUnit* Target::unit(unsigned lun) const {
  const auto found = units_.find(lun);
  return found == units_.end() ? nullptr : found->second;
}

void Target::execute(unsigned lun, CommandPtr command) {
  const std::uint8_t opcode = command->cdb[0];
  if (opcode == 0xA0) return report_luns(command);
  if (LogicalUnit* const there = unit(lun)) return there->execute(std::move(command));
  // SPC-4, 5.4 and 6.4.2: of an incorrect logical unit number.
  if (opcode == 0x12) {
    if (command->cdb[1] || command->cdb[2]) return fail(command, kInvalidField);
    std::array<std::uint8_t, 36> data{};
    data[0] = 0x7F;
    data[2] = 6;
    data[3] = 2;
    data[4] = data.size() - 5;
    return reply(command, data, load_be<std::uint16_t>(&command->cdb[3]));
  }
  if (opcode == 0x03) {
    const SenseBytes sense = encode(kUnknownUnit, command->cdb[1] & 1);
    return reply(command, std::span(sense.bytes).first(sense.length), command->cdb[4]);
  }
  fail(command, kUnknownUnit);
}

void Target::report_luns(const CommandPtr& command) {
  const auto& cdb = command->cdb;
  const auto allocation = load_be<std::uint32_t>(&cdb[6]);
  // SELECT REPORT: addressed units, well-known units (there are none), all. At least 16 bytes (6.33).
  if (cdb[2] > 2 || allocation < 16) return fail(command, kInvalidField);
  std::vector<std::uint8_t> data(8);
  if (cdb[2] != 1) {
    // LUN 0 is always told: it answers INQUIRY, if only to say that nothing is there.
    std::vector<unsigned> luns;
    if (!units_.contains(0)) luns.push_back(0);
    for (const auto& [lun, unit] : units_) luns.push_back(lun);
    for (const unsigned lun : luns) {
      std::array<std::uint8_t, 8> entry{};
      // Peripheral addressing up to 255, flat space above (SAM-5, 4.7.7).
      store_be<std::uint16_t>(entry.data(), static_cast<std::uint16_t>(lun < 256 ? lun : 0x4000 | lun));
      data.insert(data.end(), entry.begin(), entry.end());
    }
  }
  store_be<std::uint32_t>(&data[0], static_cast<std::uint32_t>(data.size() - 8));
  reply(command, data, allocation);
}

}  // namespace husk::devices::scsi
