// husk: a SCSI disk: the commands of SBC-3
#include "devices/scsi/disk.h"

#include <algorithm>
#include <array>
#include <bit>

#include "devices/scsi/cdb.h"

namespace husk::devices::scsi {

namespace {
// SBC-3, table 15.
constexpr std::uint8_t kTestUnitReady = 0x00, kRead6 = 0x08, kWrite6 = 0x0A, kStartStop = 0x1B, kPreventAllow = 0x1E,
                       kReadCapacity10 = 0x25, kRead10 = 0x28, kWrite10 = 0x2A, kWriteVerify10 = 0x2E, kVerify10 = 0x2F,
                       kSynchronize10 = 0x35, kWriteSame10 = 0x41, kUnmap = 0x42, kRead16 = 0x88, kWrite16 = 0x8A,
                       kWriteVerify16 = 0x8E, kVerify16 = 0x8F, kSynchronize16 = 0x91, kWriteSame16 = 0x93,
                       kServiceActionIn = 0x9E, kRead12 = 0xA8, kWrite12 = 0xAA, kWriteVerify12 = 0xAE,
                       kVerify12 = 0xAF;
constexpr std::uint8_t kReadCapacity16 = 0x10;
constexpr std::uint8_t kErrorRecoveryPage = 0x01, kCachingPage = 0x08, kControlPage = 0x0A;
constexpr std::uint8_t kLimitsPage = 0xB0, kCharacteristicsPage = 0xB1, kProvisioningPage = 0xB2;

constexpr std::uint64_t kMostAtOnce = std::uint64_t{1} << 30;  ///< bytes in an UNMAP or WRITE SAME
constexpr unsigned kMostUnmaps = 255;
constexpr std::size_t kUnmapHeader = 8, kUnmapBytes = 16;
}  // namespace

Result<std::unique_ptr<Disk>> Disk::create(core::BlockBackend& backend, Config config) {
  const auto power = [](std::uint32_t size) { return std::has_single_bit(size) && size >= 512 && size <= 32768; };
  if (!power(config.logical_block) || !power(config.physical_block))
    return husk::fail("block sizes {} and {} are not powers of two from 512 to 32768", config.logical_block,
                      config.physical_block);
  if (config.physical_block < config.logical_block)
    return husk::fail("the physical block size {} is smaller than the logical one, {}", config.physical_block,
                      config.logical_block);
  if (config.discard_granularity % config.logical_block)
    return husk::fail("the discard granularity {} is no multiple of the block size {}", config.discard_granularity,
                      config.logical_block);
  if (config.rotation_rate > 1 && (config.rotation_rate < 0x401 || config.rotation_rate == 0xFFFF))
    return husk::fail("a rotation rate is 0, 1 or 1025 to 65534, not {}", config.rotation_rate);
  HUSK_TRY(check_identity(config.identity));
  return std::unique_ptr<Disk>(new Disk(backend, std::move(config)));
}

Disk::Disk(core::BlockBackend& backend, Config config)
    : LogicalUnit(&backend, {.device_type = 0x00,
                             .removable = config.removable,
                             .identity = config.identity,
                             .block_size = config.logical_block,
                             .policy = config.policy,
                             .write_cache = config.write_cache}),
      own_(std::move(config)) {}

bool Disk::start(const CommandPtr& command) {
  switch (command->cdb[0]) {
    case kTestUnitReady:
      if (ready(command)) finish(command);
      return true;
    case kRead6:
    case kRead10:
    case kRead12:
    case kRead16: read(command); return true;
    case kWrite6:
    case kWrite10:
    case kWrite12:
    case kWrite16: write(command); return true;
    case kWriteVerify10:
    case kWriteVerify12:
    case kWriteVerify16: verify(command, true); return true;
    case kVerify10:
    case kVerify12:
    case kVerify16: verify(command, false); return true;
    case kReadCapacity10: read_capacity_10(command); return true;
    case kServiceActionIn: service_action_in(command); return true;
    case kSynchronize10:
    case kSynchronize16: synchronize_cache(command); return true;
    case kWriteSame10:
    case kWriteSame16: write_same(command); return true;
    case kUnmap: unmap(command); return true;
    case kStartStop: start_stop(command); return true;
    case kPreventAllow:
      if (!removable()) return false;
      prevent_allow(command);
      return true;
    default: return false;
  }
}

// ---- reading and writing ----

bool Disk::check_flags(const CommandPtr& command, bool write) {
  const auto& cdb = command->cdb;
  if (cdb[0] >> 5 == 0) return true;  // 6 bytes have no flags
  // RDPROTECT or WRPROTECT without protection information; DPO and FUA without DPOFUA in the mode parameters.
  if ((cdb[1] >> 5) || (!own_.dpo_fua && (cdb[1] & 0x18))) {
    fail(command, kInvalidField);
    return false;
  }
  return !write || writable(command);
}

bool Disk::writable(const CommandPtr& command) {
  if (!ready(command)) return false;
  if (!read_only()) return true;
  fail(command, kWriteProtected);
  return false;
}

void Disk::read(const CommandPtr& command) {
  if (!check_flags(command, false)) return;
  const Extent extent = extent_of(command->cdb);
  read_blocks(command, extent.lba, extent.count);
}

void Disk::write(const CommandPtr& command) {
  const bool six = command->cdb[0] == kWrite6;
  if (six ? !writable(command) : !check_flags(command, true)) return;
  const Extent extent = extent_of(command->cdb);
  write_blocks(command, extent.lba, extent.count, !six && (command->cdb[1] & 0x08));
}

void Disk::verify(const CommandPtr& command, bool write_first) {
  const auto& cdb = command->cdb;
  const unsigned check = (cdb[1] >> 1) & 3;
  // BYTCHK 10b is reserved, and 11b makes no sense after a write (SBC-3, 5.33 and 5.45).
  if ((cdb[1] >> 5) || check == 2 || (write_first && check == 3)) return fail(command, kInvalidField);
  if (write_first && !writable(command)) return;
  const Extent extent = extent_of(cdb);
  if (!ready(command) || !in_range(command, extent.lba, extent.count)) return;
  const std::uint64_t length = extent.count * block_size();
  const std::uint64_t sent = write_first || check == 1 ? length : check == 3 ? block_size() : 0;
  if (extent.count == 0) return finish(command);
  if (sent > command->out_bytes) {
    command->overrun = true;
    return finish(command);
  }
  command->moved = sent;
  Command::Work& work = command->work;
  work.kind = Command::Work::Kind::verify;
  work.offset = extent.lba * block_size();
  work.left = length;
  work.compare = check != 0;
  work.one_block = check == 3;
  if (!write_first) return run_steps(command);
  work.kind = Command::Work::Kind::write_then_verify;
  work.spans = first_bytes(command->out, length);
  submit(command, core::BlockOp::write, core::BlockFlags::kFua, work.offset, length, work.spans);
}

void Disk::synchronize_cache(const CommandPtr& command) {
  const Extent extent = extent_of(command->cdb);
  // A count of 0 means all that follow (SBC-3, 5.26). The whole cache is written out anyway.
  if (ready(command) && in_range(command, extent.lba, extent.count)) flush(command);
}

void Disk::write_same(const CommandPtr& command) {
  const auto& cdb = command->cdb;
  const bool sixteen = cdb[0] == kWriteSame16;
  const bool unmap = cdb[1] & 0x08;
  const bool no_data = sixteen && (cdb[1] & 0x01);
  // WRPROTECT; ANCHOR; the obsolete PBDATA and LBDATA; unmapping that page B2h does not offer.
  if ((cdb[1] >> 5) || (cdb[1] & 0x16) || (!sixteen && (cdb[1] & 1)) || (unmap && !own_.discard))
    return fail(command, kInvalidField);
  if (!writable(command)) return;
  const Extent extent = extent_of(cdb);
  // Page B0h: WSNZ, and the most there may be.
  if (extent.count == 0 || extent.count > kMostAtOnce / block_size()) return fail(command, kInvalidField);
  if (!in_range(command, extent.lba, extent.count)) return;
  if (!no_data && command->out_bytes < block_size()) {
    command->overrun = true;
    return finish(command);
  }
  const std::uint64_t offset = extent.lba * block_size();
  const std::uint64_t length = extent.count * block_size();
  std::vector<std::uint8_t> block(block_size());
  if (!no_data) command->moved = command->read_out(0, block);
  if (std::all_of(block.begin(), block.end(), [](std::uint8_t byte) { return byte == 0; }))
    return submit(command, core::BlockOp::write_zeroes,
                  (unmap ? core::BlockFlags::kMayUnmap : 0) | (write_cache() ? 0 : core::BlockFlags::kFua), offset,
                  length, {});
  Command::Work& work = command->work;
  work.kind = Command::Work::Kind::write_same;
  work.offset = offset;
  work.left = length;
  run_steps(command);
}

void Disk::unmap(const CommandPtr& command) {
  if (!own_.discard) return fail(command, kInvalidOpcode);
  if (command->cdb[1]) return fail(command, kInvalidField);  // ANCHOR
  if (!writable(command)) return;
  const auto list = parameters(command, load_be<std::uint16_t>(&command->cdb[7]));
  if (!list) return;
  if (list->empty()) return finish(command);
  if (list->size() < kUnmapHeader) return fail(command, kParameterLength);
  // SBC-3, 5.28.2: what is left of a descriptor that is cut off is ignored.
  const std::size_t told = load_be<std::uint16_t>(&(*list)[2]);
  const std::size_t count = std::min(told, list->size() - kUnmapHeader) / kUnmapBytes;
  if (count > kMostUnmaps) return fail(command, kInvalidParameter);
  Command::Work& work = command->work;
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint8_t* const d = &(*list)[kUnmapHeader + i * kUnmapBytes];
    const auto lba = load_be<std::uint64_t>(d);
    const auto length = load_be<std::uint32_t>(d + 8);
    if (!in_range(command, lba, length)) return;
    sum += length;
    work.ranges.push_back({lba * block_size(), std::uint64_t{length} * block_size()});
  }
  if (sum > kMostAtOnce / block_size()) return fail(command, kInvalidParameter);
  work.kind = Command::Work::Kind::unmap;
  run_steps(command);
}

// ---- what the disk is ----

void Disk::read_capacity_10(const CommandPtr& command) {
  // An address without PMI, and PMI itself, are obsolete (SBC-3, 5.15).
  if ((command->cdb[8] & 1) || load_be<std::uint32_t>(&command->cdb[2])) return fail(command, kInvalidField);
  if (!ready(command)) return;
  std::array<std::uint8_t, 8> data{};
  const std::uint64_t count = blocks();
  if (count == 0) return fail(command, absent_medium());
  store_be<std::uint32_t>(&data[0], static_cast<std::uint32_t>(std::min<std::uint64_t>(count - 1, 0xFFFFFFFF)));
  store_be<std::uint32_t>(&data[4], block_size());
  reply(command, data, data.size());
}

void Disk::service_action_in(const CommandPtr& command) {
  const auto& cdb = command->cdb;
  if ((cdb[1] & 0x1F) != kReadCapacity16) return fail(command, kInvalidField);
  if (!ready(command)) return;
  const std::uint64_t count = blocks();
  if (count == 0) return fail(command, absent_medium());
  std::array<std::uint8_t, 32> data{};
  store_be<std::uint64_t>(&data[0], count - 1);
  store_be<std::uint32_t>(&data[8], block_size());
  data[13] = static_cast<std::uint8_t>(std::countr_zero(own_.physical_block / own_.logical_block));
  // LBPME. Not LBPRZ: a store may leave what is unmapped as it is.
  if (own_.discard && !read_only()) data[14] = 0x80;
  reply(command, data, load_be<std::uint32_t>(&cdb[10]));
}

std::span<const std::uint16_t> Disk::versions() const {
  static constexpr std::uint16_t kVersions[] = {0x00A0, 0x0460, 0x04C0};  // SAM-5, SPC-4, SBC-3
  return kVersions;
}

std::span<const std::uint8_t> Disk::product_pages() const {
  static constexpr std::uint8_t kPages[] = {kLimitsPage, kCharacteristicsPage, kProvisioningPage};
  return kPages;
}

std::uint32_t Disk::unmap_granularity() const {
  const std::uint32_t bytes = own_.discard_granularity ? own_.discard_granularity
                              : medium()               ? medium()->info().discard_unit
                                                       : 0;
  return std::max(1u, bytes / block_size());
}

std::vector<std::uint8_t> Disk::product_page(std::uint8_t page) const {
  const auto most = static_cast<std::uint32_t>(kMostAtOnce / block_size());
  if (page == kProvisioningPage) {
    // LBPU, LBPWS, LBPWS10; thin provisioning (SBC-3, 6.6.4).
    if (!own_.discard) return {0, 0, 0, 0};
    return {0, 0xE0, 2, 0};
  }
  std::vector<std::uint8_t> data(60);
  const auto put32 = [&](std::size_t at, std::uint32_t value) { store_be<std::uint32_t>(&data[at - 4], value); };
  if (page == kCharacteristicsPage) {
    store_be<std::uint16_t>(&data[0], own_.rotation_rate);
    return data;
  }
  // Places as SBC-3, 6.6.3 counts them, from the start of the page.
  const std::uint32_t optimal = own_.opt_io ? own_.opt_io : medium() ? medium()->info().optimal_io : 0;
  data[0] = 1;  // WSNZ
  store_be<std::uint16_t>(&data[2],
                          static_cast<std::uint16_t>(std::min<std::uint32_t>(0xFFFF, own_.min_io / block_size())));
  put32(12, optimal / block_size());
  if (own_.discard) {
    put32(20, most);
    put32(24, kMostUnmaps);
    put32(28, unmap_granularity());
  }
  store_be<std::uint64_t>(&data[36 - 4], most);
  return data;
}

std::span<const std::uint8_t> Disk::mode_pages() const {
  static constexpr std::uint8_t kPages[] = {kErrorRecoveryPage, kCachingPage, kControlPage};
  return kPages;
}

std::vector<std::uint8_t> Disk::mode_page(std::uint8_t page, PageControl control) const {
  const bool changeable = control == PageControl::changeable;
  const bool defaults = control == PageControl::defaults;
  switch (page) {
    case kErrorRecoveryPage: {
      std::vector<std::uint8_t> bytes(12);
      bytes[0] = page;
      bytes[1] = 0x0A;
      if (!changeable) bytes[2] = 0x80;  // AWRE
      return bytes;
    }
    case kCachingPage: {
      std::vector<std::uint8_t> bytes(20);
      bytes[0] = page;
      bytes[1] = 0x12;
      if (changeable || (defaults ? own_.write_cache : write_cache())) bytes[2] = 0x04;  // WCE
      return bytes;
    }
    default: {
      std::vector<std::uint8_t> bytes(12);
      bytes[0] = page;
      bytes[1] = 0x0A;
      if (changeable || (!defaults && state().descriptor_sense)) bytes[2] = 0x04;  // D_SENSE
      if (!changeable) bytes[3] = 0x10;  // commands may be reordered without restriction
      return bytes;
    }
  }
}

void Disk::set_mode_page(std::span<const std::uint8_t> page) {
  if ((page[0] & 0x3F) == kCachingPage) changeable_state().write_cache = page[2] & 0x04;
  if ((page[0] & 0x3F) == kControlPage) changeable_state().descriptor_sense = page[2] & 0x04;
}

std::uint8_t Disk::mode_device_specific() const {
  return static_cast<std::uint8_t>((read_only() ? 0x80 : 0) | (own_.dpo_fua ? 0x10 : 0));
}

}  // namespace husk::devices::scsi
