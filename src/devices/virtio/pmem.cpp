// husk: virtio-pmem
#include "devices/virtio/pmem.h"

#include <array>
#include <memory>

#include "base/bits.h"

namespace husk::devices::virtio {

namespace {
// 5.19.4: le64 start, le64 size.
constexpr unsigned kConfigBytes = 16;
constexpr std::uint16_t kQueueSize = 128;
/// 5.19.6: the only request there is.
constexpr std::uint32_t kFlush = 0;
constexpr std::size_t kRequestBytes = 4, kAnswerBytes = 4;
}  // namespace

Pmem::Pmem(Environment environment, core::PersistentMemory& memory, Config config)
    : Base(config.id, environment,
           {.type = DeviceType::pmem, .queue_sizes = {kQueueSize}, .config_size = kConfigBytes, .ring = config.ring}),
      memory_(memory),
      config_(std::move(config)) {}

void Pmem::fill_config(std::span<std::uint8_t> bytes) {
  store_le<std::uint64_t>(&bytes[0], config_.start);
  store_le<std::uint64_t>(&bytes[8], memory_.region().size());
}

void Pmem::handle_queue(unsigned) {
  in_batch_ = true;
  drain_queue(0, [this](Chain& chain) {
    std::array<std::uint8_t, kRequestBytes> request{};
    if (chain.read(0, request) != request.size() || load_le<std::uint32_t>(request.data()) != kFlush) {
      answer(chain, false);
      return true;
    }
    work_begins(0);
    memory_.flush([this, waiting = std::make_shared<Chain>(std::move(chain))](bool stable) {
      answer(*waiting, stable);
      if (!in_batch_) interrupt_queue(0);
      work_ended(0);
    });
    return true;
  });
  in_batch_ = false;
  interrupt_queue(0);
}

void Pmem::answer(const Chain& chain, bool success) {
  std::array<std::uint8_t, kAnswerBytes> result;
  store_le<std::uint32_t>(result.data(), success ? 0 : ~0u);
  give(0, chain, chain.write(0, result));
}

}  // namespace husk::devices::virtio
