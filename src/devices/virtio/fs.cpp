// husk: virtio-fs and virtio-9p
#include "devices/virtio/fs.h"

#include <algorithm>
#include <bit>

#include "base/bits.h"

namespace husk::devices::virtio {

namespace {
// 5.11.4: tag[36], num_request_queues, notify_buf_size (which means nothing without the notification queue).
constexpr unsigned kConfigBytes = 44;
/// The configuration space of virtio-9p, a length of two bytes and the tag, is there.
constexpr std::uint64_t kMountTag = 1;

VirtioDevice::Traits traits_of(const Fs::Config& config) {
  if (config.protocol == Fs::Protocol::ninep)
    return {.type = DeviceType::ninep,
            .features = kMountTag,
            .queue_sizes = {config.queue_size},
            .config_size = static_cast<std::uint32_t>(2 + config.tag.size()),
            .ring = config.ring};
  return {.type = DeviceType::fs,
          .features = 0,
          .queue_sizes = std::vector<std::uint16_t>(config.queues + 1, config.queue_size),
          .config_size = kConfigBytes,
          .ring = config.ring};
}
}  // namespace

Result<std::unique_ptr<Fs>> Fs::create(Environment environment, core::ShareBackend& backend, Config config) {
  const bool ninep = config.protocol == Protocol::ninep;
  const unsigned most_tag = ninep ? kNinepTagBytes : kTagBytes, most_queues = ninep ? 1 : 64;
  if (config.tag.empty() || config.tag.size() > most_tag)
    return fail("{}: the tag '{}' does not have 1 to {} bytes", config.id, config.tag, most_tag);
  if (config.queues < 1 || config.queues > most_queues)
    return fail("{}: {} request queues are not 1 to {}", config.id, config.queues, most_queues);
  if (!std::has_single_bit(config.queue_size) || config.queue_size < 8 || config.queue_size > 1024)
    return fail("{}: the queue size {} is no power of two from 8 to 1024", config.id, config.queue_size);
  return std::unique_ptr<Fs>(new Fs(environment, backend, std::move(config)));
}

Fs::Fs(Environment environment, core::ShareBackend& backend, Config config)
    : Base(config.id, environment, traits_of(config)), backend_(backend), config_(std::move(config)) {}

void Fs::fill_config(std::span<std::uint8_t> bytes) {
  if (config_.protocol == Protocol::ninep) {
    store_le<std::uint16_t>(&bytes[0], static_cast<std::uint16_t>(config_.tag.size()));
    std::copy(config_.tag.begin(), config_.tag.end(), bytes.begin() + 2);
    return;
  }
  std::copy(config_.tag.begin(), config_.tag.end(), bytes.begin());
  store_le<std::uint32_t>(&bytes[kTagBytes], config_.queues);
}

void Fs::handle_queue(unsigned index) {
  in_batch_ = true;
  drain_queue(index, [&](Chain& chain) {
    auto request = std::make_shared<Request>();
    request->chain = std::move(chain);
    request->queue = index;
    for (const Segment& segment : request->chain.readable()) request->in.emplace_back(segment.data, segment.length);
    for (const Segment& segment : request->chain.writable()) request->out.emplace_back(segment.data, segment.length);
    work_begins(index);
    core::ShareRequest out;
    out.in = request->in;
    out.out = request->out;
    out.completion = [this, request](std::uint64_t written) { finish(*request, written); };
    backend_.submit(std::move(out));
    return true;
  });
  in_batch_ = false;
  interrupt_queue(index);
}

void Fs::finish(Request& request, std::uint64_t written) {
  written = std::min(written, request.chain.writable_bytes());
  if (written) request.chain.note_written(0, written);
  give(request.queue, request.chain, written);
  if (!in_batch_) interrupt_queue(request.queue);
  work_ended(request.queue);
}

Status Fs::validate_device(const FsState& incoming) const {
  // The last check: what the backend takes, it has.
  return backend_.load(incoming.session);
}

}  // namespace husk::devices::virtio
