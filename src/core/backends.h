// husk: what devices need of the host, as small interfaces
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

namespace husk::core {

/// The host side of a character device. Calls and callbacks under the device's lock domain.
class CharBackend {
 public:
  virtual ~CharBackend() = default;
  /// Takes some or all of `data`; returns how many bytes. What is not taken may be offered again after the `writable`
  /// callback. A backend that is gone takes (and drops) everything.
  virtual std::size_t write(std::span<const std::uint8_t> data) = 0;

  struct Callbacks {
    std::function<void(std::span<const std::uint8_t>)> received;  ///< at most the credit given
    std::function<void()> writable;
    std::function<void(bool connected)> connection;  ///< carrier: a peer came or went
    std::function<void()> break_received = {};       ///< a break condition sent by the host side
  };
  virtual void set_callbacks(Callbacks callbacks) = 0;
  /// How many more bytes the device can take now; the backend delivers no more than this until told again.
  virtual void set_read_credit(std::size_t bytes) = 0;
  /// A break condition sent by the guest; most backends ignore it.
  virtual void send_break() {}
};

/// What a device may ask of the machine as a whole. Calls post a request; the machine acts when the vCPUs have left
/// their current instruction.
class MachineControl {
 public:
  virtual ~MachineControl() = default;
  enum class Shutdown {
    power_off,    ///< the guest asked (ACPI S5)
    guest_panic,  ///< pvpanic and the like
    debug_exit,   ///< isa-debug-exit: `status` is husk's exit status
  };
  virtual void request_reset(const char* cause) = 0;
  virtual void request_shutdown(Shutdown kind, int status) = 0;
  /// The A20 line as seen by the CPUs: false forces address bit 20 to zero.
  virtual void set_a20(bool enabled) = 0;
};

}  // namespace husk::core
