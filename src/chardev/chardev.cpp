// husk: creating character devices from their specs, and keeping a machine's set of them
#include "chardev/chardev.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>

#include "chardev/mux.h"
#include "chardev/stream.h"
#include "host/terminal.h"

namespace husk::chardev {

Result<std::unique_ptr<Chardev>> Chardev::create(host::EventLoop& loop, const Spec& spec, Environment environment) {
  auto device = create_stream(loop, spec, environment);
  if (!device) return std::unexpected(std::move(device).error().within(fmt::format("character device '{}'", spec.id)));
  if (!spec.mux) return std::move(*device);
  (*device)->set_immediate();
  const bool terminal = std::holds_alternative<StdioSpec>(spec.kind) && host::is_terminal(STDIN_FILENO);
  return Mux::create(std::move(*device), loop, std::move(environment), terminal);
}

bool Chardev::flush(std::uint64_t timeout_ns) {
  bool empty = false;
  loop_.run_sync([&] {
    const std::uint64_t end = host::monotonic_now() + timeout_ns;
    for (;;) {
      empty = try_drain();
      const std::uint64_t now = host::monotonic_now();
      if (empty || now >= end || blocked_fd() < 0) return;
      pollfd waiting{blocked_fd(), POLLOUT, 0};
      ::poll(&waiting, 1, static_cast<int>(std::min<std::uint64_t>((end - now + 999'999) / 1'000'000, 1000)));
    }
  });
  return empty;
}

std::vector<std::uint8_t> Chardev::ring_contents(std::size_t, bool) { return {}; }

Result<ChardevSet> ChardevSet::create(host::EventLoop& loop, std::span<const Spec> specs, Environment environment) {
  const Spec* stdio = nullptr;
  for (std::size_t i = 0; i < specs.size(); ++i) {
    const Spec& spec = specs[i];
    for (const Spec& earlier : specs.first(i))
      if (earlier.id == spec.id)
        return std::unexpected(Error{fmt::format("two character devices have the id '{}'", spec.id), "rename one"});
    if (!std::holds_alternative<StdioSpec>(spec.kind)) continue;
    if (stdio)
      return std::unexpected(
          Error{fmt::format("character devices '{}' and '{}' both want standard input and output", stdio->id, spec.id),
                "share one with mux=on (-serial mon:stdio), or give one of them another place"});
    stdio = &spec;
  }
  ChardevSet set;
  for (const Spec& spec : specs) set.devices_.push_back(HUSK_TRY(Chardev::create(loop, spec, environment)));
  return set;
}

ChardevSet::~ChardevSet() = default;

Chardev* ChardevSet::find(std::string_view id) const {
  for (const auto& device : devices_)
    if (device->id() == id) return device.get();
  return nullptr;
}

bool ChardevSet::ready() const {
  return std::all_of(devices_.begin(), devices_.end(), [](const auto& device) { return device->ready(); });
}

void ChardevSet::flush(std::uint64_t timeout_ns) {
  const std::uint64_t end = host::monotonic_now() + timeout_ns;
  for (const auto& device : devices_) {
    const std::uint64_t now = host::monotonic_now();
    device->flush(now < end ? end - now : 0);
  }
}

void ChardevSet::suspend_terminal() {
  for (const auto& device : devices_) device->suspend_terminal();
}
void ChardevSet::resume_terminal() {
  for (const auto& device : devices_) device->resume_terminal();
}

}  // namespace husk::chardev
