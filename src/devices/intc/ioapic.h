// husk: the I/O APIC: 24 pins to interrupt messages (Intel 82093AA, with the EOI register of version 20h)
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <tuple>

#include "core/device.h"
#include "core/interrupt_line.h"
#include "devices/intc/apic_message.h"
#include "mem/address_space.h"

namespace husk::devices {

inline constexpr unsigned kIoapicPins = 24;

struct IoapicState {
  std::uint8_t index = 0;  ///< IOREGSEL
  std::uint8_t id = 0;
  std::uint32_t pins = 0;  ///< the inputs as they are now
  std::array<std::uint64_t, kIoapicPins> redirection{};
  static constexpr auto state() {
    using state::field;
    return std::tuple{field(1, "index", &IoapicState::index), field(2, "id", &IoapicState::id).max(15),
                      field(3, "pins", &IoapicState::pins).max((1u << kIoapicPins) - 1),
                      field(4, "redirection", &IoapicState::redirection)};
  }
};

/// Pins 0..23. set_pin and end_of_interrupt take the domain themselves.
class Ioapic : public core::StatefulDevice<IoapicState>, public core::LineSink {
 public:
  static constexpr mem::Gpa kDefaultBase = 0xFEC0'0000;

  struct Deps {
    mem::AddressSpace& memory_space;
    mem::LockDomain* domain = nullptr;  ///< the chipset's
    InterruptBus& bus;
    std::uint8_t id = 0;
    mem::Gpa base = kDefaultBase;
    /// The redirection table changed, for whoever must know the vectors of level-triggered pins. With the domain held.
    std::function<void(const Ioapic&)> redirection_changed = {};
  };
  explicit Ioapic(Deps deps);

  std::string_view state_id() const override { return "ioapic"; }
  void reset(core::ResetKind kind) override;
  void set_pin(unsigned pin, bool level) override;
  void restore_pin(unsigned pin, bool level) override;

  /// A local APIC's EOI broadcast, or a write of the EOI register: level-triggered pins of `vector` may request again.
  void end_of_interrupt(std::uint8_t vector);

  /// What a pin sends, masked or not.
  ApicMessage message(unsigned pin) const;
  /// What loading refuses beyond the ranges of the fields.
  static Status check(const IoapicState& incoming);

 protected:
  Status validate(const IoapicState& incoming) const override { return check(incoming); }
  void after_load() override { tell(); }

 private:
  struct Registers : mem::IoHandler {
    explicit Registers(Ioapic& ioapic) : owner(ioapic) {}
    std::uint64_t read(const mem::Access& access) override;
    void write(const mem::Access& access, std::uint64_t value) override;
    Ioapic& owner;
  };
  std::uint32_t read_register() const;
  void write_register(std::uint32_t value);
  void write_redirection(unsigned pin, bool high, std::uint32_t value);
  void request_level(unsigned pin);
  void tell() const {
    if (deps_.redirection_changed) deps_.redirection_changed(*this);
  }
  bool send(unsigned pin);

  Deps deps_;
  Registers registers_{*this};
  mem::Mapping mapping_;
};

}  // namespace husk::devices
