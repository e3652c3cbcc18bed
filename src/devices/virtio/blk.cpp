// husk: virtio-blk
#include "devices/virtio/blk.h"

#include <algorithm>
#include <bit>
#include <cerrno>

#include "base/bits.h"

namespace husk::devices::virtio {

namespace {
constexpr std::uint64_t kSector = 512;
constexpr unsigned kHeaderBytes = 16;
constexpr unsigned kConfigBytes = 60;

// Feature bits (5.2.3).
constexpr unsigned kSegMax = 2, kReadOnly = 5, kBlockSize = 6, kFlush = 9, kTopology = 10, kConfigWce = 11,
                   kMultiQueue = 12, kDiscard = 13, kWriteZeroes = 14;
// Requests (5.2.6).
constexpr std::uint32_t kIn = 0, kOut = 1, kFlushRequest = 4, kGetId = 8, kDiscardRequest = 11,
                        kWriteZeroesRequest = 13;
constexpr std::uint8_t kIoError = 1, kUnsupported = 2;

/// The most that one segment of a discard may cover, and segments in a request.
constexpr std::uint32_t kMostRangeSectors = 0x7FFFFFFF / kSector;
constexpr unsigned kMostRanges = 16;
constexpr unsigned kRangeBytes = 16;

std::uint64_t flag(unsigned n) { return std::uint64_t{1} << n; }

VirtioDevice::Traits traits_of(const core::BlockBackend& backend, const Blk::Config& config) {
  const bool read_only = config.read_only || backend.info().read_only;
  std::uint64_t features = flag(kSegMax) | flag(kBlockSize) | flag(kTopology) | flag(kFlush) | flag(kConfigWce);
  if (read_only) features |= flag(kReadOnly);
  if (config.queues > 1) features |= flag(kMultiQueue);
  if (config.discard && !read_only) features |= flag(kDiscard);
  if (config.write_zeroes && !read_only) features |= flag(kWriteZeroes);
  return {.type = DeviceType::block,
          .features = features,
          .queue_sizes = std::vector<std::uint16_t>(config.queues, config.queue_size),
          .config_size = kConfigBytes,
          .ring = config.ring};
}
}  // namespace

Result<std::unique_ptr<Blk>> Blk::create(Environment environment, core::BlockBackend& backend, Config config) {
  const auto power = [](std::uint32_t size) { return std::has_single_bit(size) && size >= 512 && size <= 2 << 20; };
  if (!power(config.logical_block) || !power(config.physical_block))
    return fail("{}: block sizes {} and {} are not powers of two from 512 to 2 MiB", config.id, config.logical_block,
                config.physical_block);
  if (config.queues < 1 || config.queues > 1024)
    return fail("{}: {} queues are not 1 to 1024", config.id, config.queues);
  if (!std::has_single_bit(config.queue_size) || config.queue_size < 4 || config.queue_size > 1024)
    return fail("{}: the queue size {} is no power of two from 4 to 1024", config.id, config.queue_size);
  if (config.discard_granularity % config.logical_block)
    return fail("{}: the discard granularity {} is no multiple of the block size {}", config.id,
                config.discard_granularity, config.logical_block);
  return std::unique_ptr<Blk>(new Blk(environment, backend, std::move(config)));
}

Blk::Blk(Environment environment, core::BlockBackend& backend, Config config)
    : Base(config.id, environment, traits_of(backend, config)), backend_(backend), config_(std::move(config)) {
  state_.writeback = config_.writeback;
  keep_held_in(state_.held);
  backend_.set_resized([this] { config_changed(); });
}

void Blk::fill_config(std::span<std::uint8_t> bytes) {
  const core::BlockInfo info = backend_.info();
  const auto put32 = [&](unsigned at, std::uint32_t value) { store_le<std::uint32_t>(&bytes[at], value); };
  store_le<std::uint64_t>(&bytes[0], size() / kSector);
  put32(12, config_.queue_size - 2u);
  put32(20, config_.logical_block);
  bytes[24] = static_cast<std::uint8_t>(std::countr_zero(std::max(config_.physical_block, config_.logical_block)) -
                                        std::countr_zero(config_.logical_block));
  store_le<std::uint16_t>(
      &bytes[26], static_cast<std::uint16_t>(std::min<std::uint32_t>(0xFFFF, config_.min_io / config_.logical_block)));
  put32(28, (config_.opt_io ? config_.opt_io : info.optimal_io) / config_.logical_block);
  bytes[32] = state_.writeback;
  store_le<std::uint16_t>(&bytes[34], static_cast<std::uint16_t>(config_.queues));
  put32(36, kMostRangeSectors);
  put32(40, kMostRanges);
  const std::uint32_t unit = config_.discard_granularity ? config_.discard_granularity : info.discard_unit;
  put32(44, static_cast<std::uint32_t>(std::max<std::uint64_t>(unit, config_.logical_block) / kSector));
  put32(48, kMostRangeSectors);
  put32(52, kMostRanges);
  bytes[56] = info.can_discard;
}

void Blk::config_written(std::uint64_t offset, std::uint64_t value, unsigned size) {
  if (offset == 32 && size == 1 && negotiated_bit(kConfigWce)) state_.writeback = value & 1;
}

void Blk::handle_queue(unsigned index) {
  backend_.begin_batch();
  in_batch_ = true;
  drain_queue(index, [&](Chain& chain) {
    auto request = std::make_unique<Request>();
    request->chain = std::move(chain);
    request->queue = index;
    work_begins(index);
    start_request(std::move(request));
    return true;
  });
  in_batch_ = false;
  backend_.end_batch();
  interrupt_queue(index);
}

void Blk::start() {
  backend_.begin_batch();
  resume_held([this](unsigned index, Chain& chain) {
    auto request = std::make_unique<Request>();
    request->chain = std::move(chain);
    request->queue = index;
    work_begins(index);
    start_request(std::move(request));
  });
  backend_.end_batch();
}

void Blk::start_request(std::unique_ptr<Request> request) {
  std::uint8_t header[kHeaderBytes];
  const Chain& chain = request->chain;
  if (chain.read(0, header) != kHeaderBytes || chain.writable_bytes() == 0) {
    // Without a place for the status there is no way to answer (5.2.6.1): the driver is broken.
    needs_reset("a block request has no header or no status byte");
    work_ended(request->queue);
    return;
  }
  const auto type = load_le<std::uint32_t>(header);
  const auto sector = load_le<std::uint64_t>(header + 8);
  switch (type) {
    case kIn: return start_transfer(std::move(request), false, sector);
    case kOut: return start_transfer(std::move(request), true, sector);
    case kFlushRequest: {
      request->parts = 1;
      return submit(std::move(request), core::BlockOp::flush, 0, 0, 0);
    }
    case kGetId: {
      std::uint8_t id[kSerialBytes] = {};
      std::copy_n(config_.serial.begin(), std::min<std::size_t>(config_.serial.size(), kSerialBytes), id);
      const std::uint64_t space = chain.writable_bytes() - 1;
      request->written = chain.write(0, {id, static_cast<std::size_t>(std::min<std::uint64_t>(space, kSerialBytes))});
      return finish(*request);
    }
    case kDiscardRequest:
    case kWriteZeroesRequest:
      if (negotiated_bit(type == kDiscardRequest ? kDiscard : kWriteZeroes))
        return start_ranges(std::move(request),
                            type == kDiscardRequest ? core::BlockOp::discard : core::BlockOp::write_zeroes);
      break;
    default: break;
  }
  request->status = kUnsupported;
  finish(*request);
}

void Blk::start_transfer(std::unique_ptr<Request> request, bool write, std::uint64_t sector) {
  const Chain& chain = request->chain;
  const std::uint64_t length = write ? chain.readable_bytes() - kHeaderBytes : chain.writable_bytes() - 1;
  const auto start = checked_mul(sector, kSector);
  if (length % kSector || !start || !range_within(*start, length, size()) || (write && read_only())) {
    request->status = kIoError;
    return finish(*request);
  }
  if (length == 0) return finish(*request);
  std::uint64_t skip = write ? kHeaderBytes : 0;
  std::uint64_t left = length;
  for (const Segment& segment : write ? chain.readable() : chain.writable()) {
    const std::uint64_t dropped = std::min<std::uint64_t>(skip, segment.length);
    skip -= dropped;
    const std::uint64_t count = std::min(left, segment.length - dropped);
    if (count) request->spans.emplace_back(segment.data + dropped, static_cast<std::size_t>(count));
    left -= count;
  }
  if (!write) request->written = length;
  request->parts = 1;
  const bool stable = write && !(state_.writeback && (negotiated_bit(kFlush) || negotiated_bit(kConfigWce)));
  submit(std::move(request), write ? core::BlockOp::write : core::BlockOp::read, stable ? core::BlockFlags::kFua : 0,
         *start, length);
}

void Blk::start_ranges(std::unique_ptr<Request> unique, core::BlockOp op) {
  std::uint8_t raw[kMostRanges * kRangeBytes];
  const std::uint64_t bytes = unique->chain.readable_bytes() - kHeaderBytes;
  if (bytes == 0 || bytes % kRangeBytes || bytes > sizeof raw || read_only()) {
    unique->status = read_only() ? kIoError : kUnsupported;
    return finish(*unique);
  }
  unique->chain.read(kHeaderBytes, {raw, static_cast<std::size_t>(bytes)});
  const unsigned count = static_cast<unsigned>(bytes / kRangeBytes);
  // All are checked before the first is begun: an error leaves the disk as it was.
  for (unsigned i = 0; i < count; ++i) {
    const auto first = checked_mul(load_le<std::uint64_t>(raw + i * kRangeBytes), kSector);
    const auto sectors = load_le<std::uint32_t>(raw + i * kRangeBytes + 8);
    const auto flags = load_le<std::uint32_t>(raw + i * kRangeBytes + 12);
    // 5.2.6.2: unknown flags are unsupported, and unmap has no meaning in a discard.
    if ((flags & ~1u) || (op == core::BlockOp::discard && flags)) unique->status = kUnsupported;
    if (!first || sectors > kMostRangeSectors || !range_within(*first, sectors * kSector, size()))
      unique->status = kIoError;
    if (unique->status) return finish(*unique);
  }
  std::shared_ptr<Request> request = std::move(unique);
  request->parts = count;
  for (unsigned i = 0; i < count; ++i) {
    const bool unmap = load_le<std::uint32_t>(raw + i * kRangeBytes + 12) & 1;
    const std::uint32_t stable = state_.writeback || op == core::BlockOp::discard ? 0 : core::BlockFlags::kFua;
    submit(request, op, stable | (unmap ? core::BlockFlags::kMayUnmap : 0),
           load_le<std::uint64_t>(raw + i * kRangeBytes) * kSector,
           load_le<std::uint32_t>(raw + i * kRangeBytes + 8) * kSector);
  }
}

void Blk::submit(std::shared_ptr<Request> request, core::BlockOp op, std::uint32_t flags, std::uint64_t offset,
                 std::uint64_t length) {
  request->writing = op != core::BlockOp::read;
  core::BlockRequest out;
  out.op = op;
  out.flags = flags;
  out.offset = offset;
  out.length = length;
  out.spans = request->spans;
  out.completion = [this, request](int error) { part_done(*request, error); };
  backend_.submit(std::move(out));
}

void Blk::part_done(Request& request, int error) {
  const auto action = error ? config_.policy.action(request.writing, error) : core::BlockErrorAction::ignore;
  if (action == core::BlockErrorAction::stop && config_.stop) {
    request.stop_for = error;
  } else if (action != core::BlockErrorAction::ignore) {
    request.status = error == ENOTSUP ? kUnsupported : kIoError;
    // A read that failed may have written part of the buffer.
    if (!request.spans.empty() && request.written) request.chain.note_written(0, request.written);
    request.written = 0;
  }
  if (--request.parts == 0) finish(request);
}

void Blk::finish(Request& request) {
  // Not after a reset, though: nobody waits for the answer any more.
  if (request.stop_for && !request.status) {
    if (request.written) request.chain.note_written(0, request.written);
    if (hold(request.queue, request.chain)) return config_.stop(request.stop_for, request.writing);
  }
  if (!request.spans.empty() && request.written) request.chain.note_written(0, request.written);
  // The status is the last byte of the buffer, wherever the data ends.
  const std::uint64_t status_at = request.chain.writable_bytes() - 1;
  request.chain.write(status_at, {&request.status, 1});
  give(request.queue, request.chain, status_at + 1);
  if (!in_batch_) interrupt_queue(request.queue);
  work_ended(request.queue);
}

}  // namespace husk::devices::virtio
