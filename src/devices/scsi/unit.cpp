// husk: the commands that all SCSI logical units have (SPC-4)
#include "devices/scsi/unit.h"

#include <algorithm>

#include "base/bits.h"

namespace husk::devices::scsi {

namespace {
constexpr std::uint8_t kRequestSense = 0x03, kInquiry = 0x12, kModeSelect6 = 0x15, kModeSense6 = 0x1A,
                       kSendDiagnostic = 0x1D, kModeSelect10 = 0x55, kModeSense10 = 0x5A, kReportLuns = 0xA0;
constexpr std::uint8_t kAllPages = 0x3F;
constexpr std::size_t kMostAttentions = 16;

/// SPC-4, 4.3.1: text is left-aligned and filled with spaces.
void put_text(std::span<std::uint8_t> into, std::string_view text) {
  std::fill(into.begin(), into.end(), std::uint8_t{' '});
  std::copy_n(text.begin(), std::min(text.size(), into.size()), into.begin());
}

bool printable(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c >= 0x20 && c <= 0x7E; });
}

/// Where the CONTROL byte is, by the group code (SPC-4, 4.2.5.1); the size of vendor-specific groups is not known.
std::size_t control_byte(std::uint8_t opcode) {
  switch (opcode >> 5) {
    case 0: return 5;
    case 1:
    case 2: return 9;
    case 4: return 15;
    case 5: return 11;
    default: return 0;
  }
}
}  // namespace

Status check_identity(const Identity& identity) {
  const auto check = [](std::string_view what, std::string_view text, std::size_t most) -> Status {
    if (text.size() > most) return husk::fail("the {} '{}' is longer than {} bytes", what, text, most);
    if (!printable(text)) return husk::fail("the {} has characters beyond ASCII", what);
    return {};
  };
  HUSK_TRY(check("vendor", identity.vendor, 8));
  HUSK_TRY(check("product", identity.product, 16));
  HUSK_TRY(check("revision", identity.revision, 4));
  HUSK_TRY(check("serial number", identity.serial, 36));
  return check("name", identity.name, 64);
}

LogicalUnit::LogicalUnit(core::BlockBackend* medium, Config config) : medium_(medium), config_(std::move(config)) {
  power_on();
  watch_medium();
}

LogicalUnit::~LogicalUnit() = default;

void LogicalUnit::watch_medium() {
  if (!medium_) return;
  medium_->set_resized([this] {
    attend(kCapacityChanged);
    if (news_) news_(kCapacityChanged);
  });
}

void LogicalUnit::power_on() {
  const bool tray_open = state_.tray_open;
  state_ = {};
  state_.tray_open = tray_open;  // a drive does not pull its tray in because of a reset
  state_.write_cache = config_.write_cache;
  state_.attentions = {kPowerOnReset};
}

void LogicalUnit::reset_unit() {
  // SAM-5, 6.3.3: mode pages go back to their defaults, removal is allowed.
  power_on();
  state_.attentions = {kUnitReset};
}

void LogicalUnit::attend(std::uint16_t code) {
  auto& all = state_.attentions;
  if (std::find(all.begin(), all.end(), code) == all.end() && all.size() < kMostAttentions) all.push_back(code);
}

Status LogicalUnit::validate(const UnitState& incoming) {
  if (incoming.attentions.size() > kMostAttentions)
    return husk::fail("the saved logical unit has {} unit attentions", incoming.attentions.size());
  return {};
}

void LogicalUnit::begin_batch() {
  if (medium_) medium_->begin_batch();
}

void LogicalUnit::end_batch() {
  if (medium_) medium_->end_batch();
}

void LogicalUnit::execute(CommandPtr command) {
  const std::uint8_t opcode = command->cdb[0];
  command->stop_for = 0;
  command->work = {};
  // NACA without NormACA (SAM-5, 5.2).
  if (const std::size_t control = control_byte(opcode); control && (command->cdb[control] & 4))
    return fail(command, kInvalidField);
  auto& attentions = state_.attentions;
  if (!attentions.empty() && opcode != kInquiry && opcode != kReportLuns && opcode != kRequestSense &&
      !ignores_attention(opcode)) {
    const std::uint16_t code = attentions.front();
    attentions.erase(attentions.begin());
    return fail(command, {Key::unit_attention, code});
  }
  switch (opcode) {
    case kInquiry: return inquiry(command);
    case kRequestSense: return request_sense(command);
    case kModeSense6:
    case kModeSense10: return mode_sense(command, opcode == kModeSense10);
    case kModeSelect6:
    case kModeSelect10: return mode_select(command, opcode == kModeSelect10);
    case kSendDiagnostic: return send_diagnostic(command);
    default:
      if (!start(command)) fail(command, kInvalidOpcode);
  }
}

// ---- answers ----

void LogicalUnit::fail(const CommandPtr& command, const Sense& sense) {
  command->status = CommandStatus::check_condition;
  command->sense = encode(sense, state_.descriptor_sense);
  command->moved = 0;
  finish(command);
}

void LogicalUnit::reply(const CommandPtr& command, std::span<const std::uint8_t> data, std::uint64_t allocation) {
  if (allocation > command->in_bytes) {
    command->overrun = true;
    return finish(command);
  }
  command->write_in(data.first(static_cast<std::size_t>(std::min<std::uint64_t>(data.size(), allocation))));
  finish(command);
}

std::optional<std::vector<std::uint8_t>> LogicalUnit::parameters(const CommandPtr& command, std::uint64_t length) {
  if (length > command->out_bytes) {
    command->overrun = true;
    finish(command);
    return std::nullopt;
  }
  std::vector<std::uint8_t> list(static_cast<std::size_t>(length));
  command->moved = command->read_out(0, list);
  return list;
}

// ---- INQUIRY and REQUEST SENSE ----

void LogicalUnit::inquiry(const CommandPtr& command) {
  const auto& cdb = command->cdb;
  const bool vital = cdb[1] & 1;
  const auto allocation = load_be<std::uint16_t>(&cdb[3]);
  if ((cdb[1] & 2) || (!vital && cdb[2])) return fail(command, kInvalidField);
  if (vital) return vital_product(command, cdb[2], allocation);
  std::array<std::uint8_t, 96> data{};
  data[0] = config_.device_type;
  data[1] = config_.removable ? 0x80 : 0;
  data[2] = 6;     // SPC-4
  data[3] = 0x12;  // HISUP, response data format 2
  data[4] = data.size() - 5;
  data[7] = 0x02;  // CMDQUE
  put_text(std::span(data).subspan(8, 8), config_.identity.vendor);
  put_text(std::span(data).subspan(16, 16), config_.identity.product);
  put_text(std::span(data).subspan(32, 4), config_.identity.revision);
  std::size_t at = 58;
  for (const std::uint16_t version : versions()) {
    store_be<std::uint16_t>(&data[at], version);
    at += 2;
  }
  reply(command, data, allocation);
}

std::vector<std::uint8_t> LogicalUnit::product_page(std::uint8_t) const { return {}; }

std::vector<std::uint8_t> LogicalUnit::identification() const {
  std::vector<std::uint8_t> page;
  const Identity& who = config_.identity;
  const std::string& name = who.name.empty() ? who.serial : who.name;
  if (!name.empty()) {
    // SPC-4, 7.8.6.3: of the logical unit, based on the T10 vendor identification, in ASCII.
    page.insert(page.end(), {0x02, 0x01, 0x00, static_cast<std::uint8_t>(8 + name.size())});
    const std::size_t at = page.size();
    page.resize(at + 8);
    put_text(std::span(page).subspan(at, 8), who.vendor);
    page.insert(page.end(), name.begin(), name.end());
  }
  if (who.wwn) {
    page.insert(page.end(), {0x01, 0x03, 0x00, 0x08});  // NAA, binary
    page.resize(page.size() + 8);
    store_be<std::uint64_t>(&page[page.size() - 8], who.wwn);
  }
  return page;
}

void LogicalUnit::vital_product(const CommandPtr& command, std::uint8_t page, std::uint64_t allocation) {
  const std::string& serial = config_.identity.serial;
  const auto more = product_pages();
  std::vector<std::uint8_t> content;
  if (page == 0x00) {
    content.push_back(0x00);
    if (!serial.empty()) content.push_back(0x80);
    content.push_back(0x83);
    content.insert(content.end(), more.begin(), more.end());
  } else if (page == 0x80 && !serial.empty()) {
    content.assign(serial.begin(), serial.end());
  } else if (page == 0x83) {
    content = identification();
  } else if (std::find(more.begin(), more.end(), page) != more.end()) {
    content = product_page(page);
  } else {
    return fail(command, kInvalidField);
  }
  std::vector<std::uint8_t> data{config_.device_type, page, 0, 0};
  store_be<std::uint16_t>(&data[2], static_cast<std::uint16_t>(content.size()));
  data.insert(data.end(), content.begin(), content.end());
  reply(command, data, allocation);
}

void LogicalUnit::request_sense(const CommandPtr& command) {
  Sense sense = kNoSense;
  if (command->cdb[1] & ~1) return fail(command, kInvalidField);
  if (command->cdb[4] <= command->in_bytes && !state_.attentions.empty()) {
    sense = {Key::unit_attention, state_.attentions.front()};
    state_.attentions.erase(state_.attentions.begin());
  }
  const SenseBytes data = encode(sense, command->cdb[1] & 1);
  reply(command, std::span(data.bytes).first(data.length), command->cdb[4]);
}

void LogicalUnit::send_diagnostic(const CommandPtr& command) {
  // Only the default self-test, which this unit always passes; no pages and no test codes (SPC-4, 6.42).
  if ((command->cdb[1] & ~0x04) || load_be<std::uint16_t>(&command->cdb[3])) return fail(command, kInvalidField);
  finish(command);
}

// ---- mode pages ----

void LogicalUnit::mode_sense(const CommandPtr& command, bool ten) {
  const auto& cdb = command->cdb;
  const std::uint8_t code = cdb[2] & 0x3F;
  const unsigned control = cdb[2] >> 6;
  if (control == 3) return fail(command, kNoSaving);
  if (cdb[3] != 0 && cdb[3] != 0xFF) return fail(command, kInvalidField);
  const auto known = mode_pages();
  if (code != kAllPages && std::find(known.begin(), known.end(), code) == known.end())
    return fail(command, kInvalidField);
  const bool long_lba = ten && (cdb[1] & 0x10);
  std::vector<std::uint8_t> data(ten ? 8 : 4);
  std::size_t descriptor = 0;
  if (mode_has_block_descriptor() && !(cdb[1] & 0x08)) {
    descriptor = long_lba ? 16 : 8;
    const std::size_t at = data.size();
    data.resize(at + descriptor);
    const std::uint64_t count = blocks();
    if (long_lba) {
      store_be<std::uint64_t>(&data[at], count);
      store_be<std::uint32_t>(&data[at + 12], config_.block_size);
    } else {
      // SBC-3, 6.5.2.2: FFFFFFFFh if there are more; the length has 24 bits.
      store_be<std::uint32_t>(&data[at], static_cast<std::uint32_t>(std::min<std::uint64_t>(count, 0xFFFFFFFF)));
      store_be<std::uint32_t>(&data[at + 4], config_.block_size & 0xFFFFFF);
    }
  }
  for (const std::uint8_t page : known)
    if (code == page || code == kAllPages) {
      const auto bytes = mode_page(page, static_cast<PageControl>(control));
      data.insert(data.end(), bytes.begin(), bytes.end());
    }
  if (ten) {
    store_be<std::uint16_t>(&data[0], static_cast<std::uint16_t>(data.size() - 2));
    data[3] = mode_device_specific();
    data[4] = long_lba && descriptor ? 1 : 0;
    store_be<std::uint16_t>(&data[6], static_cast<std::uint16_t>(descriptor));
  } else {
    data[0] = static_cast<std::uint8_t>(data.size() - 1);
    data[2] = mode_device_specific();
    data[3] = static_cast<std::uint8_t>(descriptor);
  }
  reply(command, data, ten ? load_be<std::uint16_t>(&cdb[7]) : cdb[4]);
}

std::optional<Sense> LogicalUnit::check_mode_pages(std::span<const std::uint8_t> pages) const {
  const auto known = mode_pages();
  while (!pages.empty()) {
    const std::uint8_t code = pages[0] & 0x3F;
    if (pages.size() < 2) return kParameterLength;
    if ((pages[0] & 0x40) || std::find(known.begin(), known.end(), code) == known.end()) return kInvalidParameter;
    const auto now = mode_page(code, PageControl::current);
    const auto changeable = mode_page(code, PageControl::changeable);
    if (pages[1] != now[1]) return kInvalidParameter;
    if (pages.size() < now.size()) return kParameterLength;
    for (std::size_t i = 2; i < now.size(); ++i)
      if ((pages[i] ^ now[i]) & ~changeable[i]) return kInvalidParameter;
    pages = pages.subspan(now.size());
  }
  return std::nullopt;
}

void LogicalUnit::mode_select(const CommandPtr& command, bool ten) {
  const auto& cdb = command->cdb;
  if (cdb[1] & 0x01) return fail(command, kNoSaving);
  if (!(cdb[1] & 0x10)) return fail(command, kInvalidField);  // PF: no vendor-specific format
  const std::uint64_t length = ten ? load_be<std::uint16_t>(&cdb[7]) : cdb[4];
  const auto list = parameters(command, length);
  if (!list) return;
  if (length == 0) return finish(command);
  const std::size_t header = ten ? 8 : 4;
  if (length < header) return fail(command, kParameterLength);
  const bool long_lba = ten && ((*list)[4] & 1);
  const std::size_t descriptor = ten ? load_be<std::uint16_t>(&(*list)[6]) : (*list)[3];
  if (header + descriptor > length) return fail(command, kParameterLength);
  if (descriptor) {
    if (!mode_has_block_descriptor() || descriptor != (long_lba ? 16u : 8u)) return fail(command, kInvalidParameter);
    const std::uint8_t* const d = &(*list)[header];
    const std::uint64_t count = long_lba ? load_be<std::uint64_t>(d) : load_be<std::uint32_t>(d);
    const std::uint32_t size = long_lba ? load_be<std::uint32_t>(d + 12) : load_be<std::uint32_t>(d + 4) & 0xFFFFFF;
    // Neither can be changed; zero and all ones leave the number as it is (SBC-3, 6.5.2).
    const bool same = count == 0 || count == blocks() || count == (long_lba ? ~std::uint64_t{0} : 0xFFFFFFFF);
    if (!same || size != config_.block_size) return fail(command, kInvalidParameter);
  }
  std::span<const std::uint8_t> pages = std::span(*list).subspan(header + descriptor);
  // All are checked before the first is changed.
  if (const auto wrong = check_mode_pages(pages)) return fail(command, *wrong);
  while (!pages.empty()) {
    const std::size_t size = std::size_t{2} + pages[1];
    set_mode_page(pages.first(size));
    pages = pages.subspan(size);
  }
  finish(command);
}

}  // namespace husk::devices::scsi
