// husk: a SCSI CD-ROM drive: the commands of MMC-6
#include "devices/scsi/cdrom.h"

#include <algorithm>
#include <array>

#include "devices/scsi/cdb.h"

namespace husk::devices::scsi {

namespace {
// MMC-6, table 235.
constexpr std::uint8_t kTestUnitReady = 0x00, kStartStop = 0x1B, kPreventAllow = 0x1E, kReadCapacity = 0x25,
                       kRead10 = 0x28, kReadToc = 0x43, kGetConfiguration = 0x46, kGetEventStatus = 0x4A,
                       kReadDiscInformation = 0x51, kRead12 = 0xA8, kReadDiscStructure = 0xAD, kSetCdSpeed = 0xBB,
                       kMechanismStatus = 0xBD, kReadCd = 0xBE;
constexpr std::uint8_t kErrorRecoveryPage = 0x01, kCapabilitiesPage = 0x2A;
constexpr std::uint16_t kCdRomProfile = 0x0008, kDvdRomProfile = 0x0010;
constexpr std::uint64_t kMostCdBlocks = 80 * 60 * 75;
constexpr std::uint8_t kDataTrack = 0x14;  ///< ADR 1, control: data track (MMC-6, 6.25.2.4)
constexpr std::uint8_t kLeadOut = 0xAA;

/// A place on the disc as four bytes: LBA, or minute, second and frame, 150 frames on (MMC-6, 4.2.3.3).
std::array<std::uint8_t, 4> place(std::uint64_t lba, bool msf) {
  std::array<std::uint8_t, 4> bytes{};
  if (!msf) {
    store_be<std::uint32_t>(bytes.data(), static_cast<std::uint32_t>(std::min<std::uint64_t>(lba, 0xFFFFFFFF)));
    return bytes;
  }
  lba += 150;
  bytes[1] = static_cast<std::uint8_t>(std::min<std::uint64_t>(lba / (60 * 75), 255));
  bytes[2] = static_cast<std::uint8_t>(lba / 75 % 60);
  bytes[3] = static_cast<std::uint8_t>(lba % 75);
  return bytes;
}

void append(std::vector<std::uint8_t>& to, std::span<const std::uint8_t> bytes) {
  to.insert(to.end(), bytes.begin(), bytes.end());
}
}  // namespace

Result<std::unique_ptr<Cdrom>> Cdrom::create(core::BlockBackend* medium, Config config) {
  HUSK_TRY(check_identity(config.identity));
  return std::unique_ptr<Cdrom>(new Cdrom(medium, std::move(config)));
}

Cdrom::Cdrom(core::BlockBackend* medium, Config config)
    : LogicalUnit(medium, {.device_type = 0x05,
                           .removable = true,
                           .identity = std::move(config.identity),
                           .block_size = kBlock,
                           .policy = config.policy}) {}

bool Cdrom::start(const CommandPtr& command) {
  switch (command->cdb[0]) {
    case kTestUnitReady:
      if (ready(command)) finish(command);
      return true;
    case kRead10:
    case kRead12: {
      const Extent extent = extent_of(command->cdb);
      read_blocks(command, extent.lba, extent.count);
      return true;
    }
    case kReadCd: read_cd(command); return true;
    case kReadCapacity: read_capacity(command); return true;
    case kStartStop: start_stop(command); return true;
    case kPreventAllow: prevent_allow(command); return true;
    case kReadToc: read_toc(command); return true;
    case kGetConfiguration: get_configuration(command); return true;
    case kGetEventStatus: get_event_status(command); return true;
    case kReadDiscInformation: read_disc_information(command); return true;
    case kReadDiscStructure: read_disc_structure(command); return true;
    case kMechanismStatus: mechanism_status(command); return true;
    // A request for a speed, which the drive may round as it likes (MMC-6, 6.36).
    case kSetCdSpeed: finish(command); return true;
    default: return false;
  }
}

std::span<const std::uint16_t> Cdrom::versions() const {
  static constexpr std::uint16_t kVersions[] = {0x00A0, 0x0460, 0x04E0};  // SAM-5, SPC-4, MMC-6
  return kVersions;
}

bool Cdrom::is_dvd() const { return blocks() > kMostCdBlocks; }

std::uint16_t Cdrom::profile() const {
  if (!present()) return 0;
  return is_dvd() ? kDvdRomProfile : kCdRomProfile;
}

void Cdrom::read_capacity(const CommandPtr& command) {
  if (!ready(command)) return;
  std::array<std::uint8_t, 8> data{};
  const std::uint64_t last = blocks() ? blocks() - 1 : 0;
  store_be<std::uint32_t>(&data[0], static_cast<std::uint32_t>(std::min<std::uint64_t>(last, 0xFFFFFFFF)));
  store_be<std::uint32_t>(&data[4], kBlock);
  reply(command, data, data.size());
}

void Cdrom::read_cd(const CommandPtr& command) {
  const auto& cdb = command->cdb;
  const unsigned type = (cdb[1] >> 2) & 7;
  const std::uint64_t count = load_be<std::uint32_t>(&cdb[5]) & 0xFFFFFF;
  // Any type, or mode 1, which is what the track has; user data alone, without sub-channels (MMC-6, 6.20.2).
  if ((type != 0 && type != 2) || (cdb[10] & 7) || (cdb[9] != 0x10 && cdb[9] != 0)) return fail(command, kInvalidField);
  if (!ready(command) || !in_range(command, load_be<std::uint32_t>(&cdb[2]), count)) return;
  if (cdb[9] == 0) return finish(command);
  read_blocks(command, load_be<std::uint32_t>(&cdb[2]), count);
}

void Cdrom::read_toc(const CommandPtr& command) {
  const auto& cdb = command->cdb;
  if (!ready(command)) return;
  const bool msf = cdb[1] & 2;
  const unsigned format = cdb[2] & 0xF;
  const std::uint8_t first = cdb[6];
  std::vector<std::uint8_t> data(2);
  switch (format) {
    case 0:
      // 6.25.3.2: the first track to be told, or the lead-out.
      if (first > 1 && first != kLeadOut) return fail(command, kInvalidField);
      append(data, std::array<std::uint8_t, 2>{1, 1});
      if (first <= 1) {
        append(data, std::array<std::uint8_t, 4>{0, kDataTrack, 1, 0});
        append(data, place(0, msf));
      }
      append(data, std::array<std::uint8_t, 4>{0, kDataTrack, kLeadOut, 0});
      append(data, place(blocks(), msf));
      break;
    case 1:
      append(data, std::array<std::uint8_t, 6>{1, 1, 0, kDataTrack, 1, 0});
      append(data, place(0, msf));
      break;
    case 2: {
      // Eleven bytes each: session, ADR and control, TNO, POINT, three of no meaning here, zero, PMIN, PSEC, PFRAME.
      if (first > 1) return fail(command, kInvalidField);
      append(data, std::array<std::uint8_t, 2>{1, 1});
      const auto entry = [&](std::uint8_t point, std::array<std::uint8_t, 4> where) {
        append(data, std::array<std::uint8_t, 7>{1, kDataTrack, 0, point, 0, 0, 0});
        append(data, std::array<std::uint8_t, 4>{0, where[1], where[2], where[3]});
      };
      entry(0xA0, {0, 1, 0, 0});
      entry(0xA1, {0, 1, 0, 0});
      entry(0xA2, place(blocks(), true));
      entry(1, place(0, true));
      break;
    }
    default: return fail(command, kInvalidField);
  }
  store_be<std::uint16_t>(&data[0], static_cast<std::uint16_t>(data.size() - 2));
  reply(command, data, load_be<std::uint16_t>(&cdb[7]));
}

void Cdrom::get_configuration(const CommandPtr& command) {
  const auto& cdb = command->cdb;
  const unsigned wanted = cdb[1] & 3;
  const auto from = load_be<std::uint16_t>(&cdb[2]);
  if (wanted == 3) return fail(command, kInvalidField);
  std::vector<std::uint8_t> data(8);
  store_be<std::uint16_t>(&data[6], profile());
  struct Feature {
    std::uint16_t code;
    std::uint8_t version;
    bool persistent, current;
    std::vector<std::uint8_t> content;
  };
  const bool cd = profile() == kCdRomProfile, dvd = profile() == kDvdRomProfile;
  const auto flag = [](bool set) { return static_cast<std::uint8_t>(set); };
  // MMC-6, 5.3; content as it stands there, with reserved bytes zero.
  const Feature features[] = {
      {0x0000, 0, true, true, {0x00, 0x10, flag(dvd), 0, 0x00, 0x08, flag(cd), 0}},  // profiles
      {0x0001, 2, true, true, {0, 0, 0, 1, 0, 0, 0, 0}},                             // core: of the SCSI family
      {0x0002, 1, true, true, {0x00, 0, 0, 0}},                                      // morphing
      {0x0003, 0, true, true, {0x29, 0, 0, 0}},  // removable medium: a tray that ejects and can be locked
      {0x0010, 0, false, cd || dvd, {0, 0, 0x08, 0, 0, 1, 0, 0}},  // random readable
      {0x001D, 0, false, cd, {}},                                  // multi-read
      {0x001E, 2, false, cd, {0, 0, 0, 0}},                        // CD read
      {0x001F, 0, false, dvd, {}},                                 // DVD read
  };
  for (const Feature& feature : features) {
    const bool told = wanted == 2 ? feature.code == from : feature.code >= from && (wanted == 0 || feature.current);
    if (!told) continue;
    append(data, std::array<std::uint8_t, 4>{
                     static_cast<std::uint8_t>(feature.code >> 8), static_cast<std::uint8_t>(feature.code),
                     static_cast<std::uint8_t>((feature.version << 2) | (feature.persistent ? 2 : 0) |
                                               (feature.current ? 1 : 0)),
                     static_cast<std::uint8_t>(feature.content.size())});
    append(data, feature.content);
  }
  store_be<std::uint32_t>(&data[0], static_cast<std::uint32_t>(data.size() - 4));
  reply(command, data, load_be<std::uint16_t>(&cdb[7]));
}

void Cdrom::get_event_status(const CommandPtr& command) {
  const auto& cdb = command->cdb;
  if (!(cdb[1] & 1)) return fail(command, kInvalidField);  // only polled (MMC-6, 6.6.2.1)
  constexpr std::uint8_t kMediaClass = 4;
  std::vector<std::uint8_t> data{0, 2, 0x80, 1 << kMediaClass};
  const auto allocation = load_be<std::uint16_t>(&cdb[7]);
  if (cdb[4] & (1 << kMediaClass)) {
    const auto status = static_cast<std::uint8_t>((tray_open() ? 1 : 0) | (present() ? 2 : 0));
    data = {0, 6, kMediaClass, 1 << kMediaClass, state().media_event, status, 0, 0};
    if (allocation > 4 && allocation <= command->in_bytes) changeable_state().media_event = 0;
  }
  reply(command, data, allocation);
}

void Cdrom::read_disc_information(const CommandPtr& command) {
  const auto& cdb = command->cdb;
  if (cdb[1] & 7) return fail(command, kInvalidField);  // only standard disc information
  if (!ready(command)) return;
  std::array<std::uint8_t, 34> data{};
  store_be<std::uint16_t>(&data[0], data.size() - 2);
  data[2] = 0x0E;  // last session and disc complete
  data[3] = data[4] = data[5] = data[6] = 1;
  data[7] = 0x20;  // unrestricted use
  // Of a complete disc there is no next session (MMC-6, 6.21.3.1).
  std::fill_n(&data[16], 8, std::uint8_t{0xFF});
  reply(command, data, load_be<std::uint16_t>(&cdb[7]));
}

void Cdrom::read_disc_structure(const CommandPtr& command) {
  const auto& cdb = command->cdb;
  if (!ready(command)) return;
  if (!is_dvd()) return fail(command, {Key::illegal_request, 0x3002});  // incompatible format
  // Media type DVD; layer 0 is the only one.
  if ((cdb[1] & 0xF) || cdb[6] || cdb[7] > 1) return fail(command, kInvalidField);
  std::vector<std::uint8_t> data(4);
  if (cdb[7] == 0) {
    data.resize(4 + 2048);
    data[4] = 0x01;                               // DVD-ROM, part version 1
    data[5] = 0x0F;                               // 120 mm, rate not told
    data[6] = 0x01;                               // one layer, embossed
    store_be<std::uint32_t>(&data[8], 0x030000);  // the data area starts there on every DVD
    store_be<std::uint32_t>(&data[12], static_cast<std::uint32_t>(0x030000 + blocks() - 1) & 0xFFFFFF);
  } else {
    data.resize(4 + 4);  // no copy protection, all regions
  }
  store_be<std::uint16_t>(&data[0], static_cast<std::uint16_t>(data.size() - 2));
  reply(command, data, load_be<std::uint16_t>(&cdb[8]));
}

void Cdrom::mechanism_status(const CommandPtr& command) {
  // No changer, nothing playing (MMC-6, 6.8.3).
  const std::array<std::uint8_t, 8> data{0, static_cast<std::uint8_t>(tray_open() ? 0x10 : 0)};
  reply(command, data, load_be<std::uint16_t>(&command->cdb[8]));
}

std::span<const std::uint8_t> Cdrom::mode_pages() const {
  static constexpr std::uint8_t kPages[] = {kErrorRecoveryPage, kCapabilitiesPage};
  return kPages;
}

std::vector<std::uint8_t> Cdrom::mode_page(std::uint8_t page, PageControl control) const {
  if (page == kErrorRecoveryPage) {
    std::vector<std::uint8_t> bytes(12);
    bytes[0] = page;
    bytes[1] = 0x0A;
    return bytes;
  }
  // The legacy page of MMC-3, 5.5.10, which drivers still read.
  std::vector<std::uint8_t> bytes(22);
  bytes[0] = page;
  bytes[1] = 0x14;
  if (control == PageControl::changeable) return bytes;
  bytes[2] = 0x0B;  // reads CD-R, CD-RW, DVD-ROM
  const bool locked = control == PageControl::current && prevented();
  bytes[6] = static_cast<std::uint8_t>(0x29 | (locked ? 2 : 0));  // a tray, lock and eject
  store_be<std::uint16_t>(&bytes[8], 0x1000);                     // kB/s, as of an old drive
  store_be<std::uint16_t>(&bytes[12], 512);                       // KiB of buffer
  store_be<std::uint16_t>(&bytes[14], 0x1000);
  return bytes;
}

}  // namespace husk::devices::scsi
