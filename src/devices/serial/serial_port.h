// husk: a 16550 on the ISA bus: ports, wire, character backend
#pragma once

#include <array>
#include <memory>
#include <string>

#include "core/backends.h"
#include "core/clock.h"
#include "core/device.h"
#include "core/interrupt_line.h"
#include "devices/serial/uart16550.h"
#include "mem/address_space.h"

namespace husk::devices {

/// Where PCs have their serial ports.
struct ComPort {
  const char* name;
  std::uint16_t base;
  std::uint8_t irq;
};
inline constexpr std::array<ComPort, 4> kComPorts{
    {{"COM1", 0x3F8, 4}, {"COM2", 0x2F8, 3}, {"COM3", 0x3E8, 4}, {"COM4", 0x2E8, 3}}};

/// Eight ports. Characters leave at once, as fast as the backend takes them; what it does not take stays in the chip,
/// where LSR shows it, until the backend is writable again. Host input waits in the backend until there is room.
class SerialPort final : public core::StatefulDevice<Uart16550::State>, private mem::IoHandler {
 public:
  struct Deps {
    mem::AddressSpace& io;
    mem::LockDomain* domain = nullptr;
    core::Clock& clock;
    core::InterruptLine irq = {};
    core::CharBackend* backend = nullptr;  ///< none: output is dropped, the modem pins say connected
  };
  struct Config {
    std::string id = "uart0";
    std::uint16_t base = kComPorts[0].base;
  };

  /// Fails if the eight ports from `base` do not fit the I/O space.
  static Result<std::unique_ptr<SerialPort>> create(Deps deps, Config config);
  ~SerialPort() override;

  std::string_view state_id() const override { return config_.id; }
  void reset(core::ResetKind kind) override;
  void start() override;
  void quiesce(std::function<void()> done) override;

 private:
  SerialPort(Deps deps, Config config);
  std::uint64_t read(const mem::Access& access) override;
  void write(const mem::Access& access, std::uint64_t value) override;
  Status validate(const Uart16550::State& incoming) const override;
  void after_load() override;

  void received(std::span<const std::uint8_t> data);
  void break_received();
  void send_pending();
  void refresh();
  void update_timer();
  void give_credit();

  Deps deps_;
  Config config_;
  Uart16550 chip_{state_};
  std::unique_ptr<core::Timer> timeout_;
  std::optional<core::VmTime> armed_;
  bool running_ = false;
  unsigned credit_ = 0;  ///< what the backend may still deliver
  mem::Mapping ports_;
};

}  // namespace husk::devices
