// husk: ACPI fixed hardware: PM1 event and control blocks, PM timer, GPE0, SMI command port
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <tuple>

#include "core/backends.h"
#include "core/clock.h"
#include "core/device.h"
#include "core/interrupt_line.h"
#include "mem/address_space.h"

namespace husk::devices {

/// The power management registers of an ICH9 (data sheet 13.8) as a pure chip; names and meaning are the ACPI
/// specification's, chapter 4.8. It has no clock: the time comes as PM timer ticks.
class AcpiPmChip {
 public:
  /// Offsets in the block, which is kBlockSize bytes long.
  enum Offset : unsigned {
    kPm1Status = 0x00,   ///< 16 bit, write 1 to clear
    kPm1Enable = 0x02,   ///< 16 bit
    kPm1Control = 0x04,  ///< 32 bit, 16 of them used
    kTimer = 0x08,       ///< 32 bit, read only
    kGpe0Status = 0x20,  ///< 64 bit, write 1 to clear
    kGpe0Enable = 0x28,  ///< 64 bit
    kSmiEnable = 0x30,   ///< 32 bit, kept only: husk's boards have no system management mode yet
    kSmiStatus = 0x34,   ///< 32 bit, write 1 to clear
  };
  static constexpr unsigned kBlockSize = 0x80;
  static constexpr unsigned kGpe0Bytes = 8;
  static constexpr std::uint64_t kTimerHertz = 3579545;
  /// The counter has 32 bits: the FADT must set TMR_VAL_EXT.
  static constexpr unsigned kTimerBits = 32;

  enum Pm1 : std::uint16_t {
    kTimerOverflow = 1u << 0,
    kBusMaster = 1u << 4,
    kGlobal = 1u << 5,
    kPowerButton = 1u << 8,
    kSleepButton = 1u << 9,
    kRtc = 1u << 10,
    kWake = 1u << 15,
  };
  enum Control : std::uint16_t { kSciEnable = 1u << 0, kBusMasterReload = 1u << 1, kGlobalRelease = 1u << 2 };
  /// SLP_TYP of each state, as the board's \_Sx objects must give it (ICH9 13.8.3.3).
  enum SleepType : unsigned { kS0 = 0, kS1 = 1, kS3 = 5, kS4 = 6, kS5 = 7 };

  struct State {
    std::uint16_t pm1_status = 0;  ///< without TMR_STS, which is worked out from the ticks
    std::uint16_t pm1_enable = 0;
    std::uint16_t pm1_control = 0;
    std::uint64_t toggles_seen = 0;  ///< changes of the counter's top bit up to which TMR_STS has been cleared
    std::uint64_t gpe_status = 0;
    std::uint64_t gpe_enable = 0;
    std::uint64_t gpe_level = 0;  ///< inputs held active: their status cannot be cleared
    std::uint32_t smi_enable = 0;
    std::uint8_t apm_control = 0;  ///< port B2h
    std::uint8_t apm_status = 0;   ///< port B3h
    std::uint16_t base = 0;        ///< of the block, 0: not decoded

    static constexpr auto state() {
      using state::field;
      return std::tuple{
          field(1, "pm1_status", &State::pm1_status),
          field(2, "pm1_enable", &State::pm1_enable),
          field(3, "pm1_control", &State::pm1_control),
          field(4, "toggles_seen", &State::toggles_seen),
          field(5, "gpe_status", &State::gpe_status),
          field(6, "gpe_enable", &State::gpe_enable),
          field(7, "gpe_level", &State::gpe_level),
          field(8, "smi_enable", &State::smi_enable),
          field(9, "apm_control", &State::apm_control),
          field(10, "apm_status", &State::apm_status),
          field(11, "base", &State::base),
      };
    }
  };

  explicit AcpiPmChip(State& state) : s_(state) {}

  /// All enables off, `acpi_mode` is SCI_EN. The counter runs on; its past overflows are forgotten.
  void reset(bool acpi_mode, std::uint64_t ticks);
  static bool plausible(const State& state);

  /// One byte at `offset`.
  std::uint8_t read(unsigned offset, std::uint64_t ticks) const;
  /// The sleep type if the write set SLP_EN.
  std::optional<unsigned> write(unsigned offset, std::uint8_t value, std::uint64_t ticks);

  void raise(Pm1 event) { s_.pm1_status = static_cast<std::uint16_t>(s_.pm1_status | event); }
  void set_gpe(unsigned number, bool level);
  void pulse_gpe(unsigned number) { s_.gpe_status |= std::uint64_t{1} << number; }
  void set_acpi_mode(bool on);

  bool sci(std::uint64_t ticks) const;
  /// The tick at which the SCI would rise by itself: the next overflow, if it is enabled and not yet pending.
  std::optional<std::uint64_t> next_overflow(std::uint64_t ticks) const;

 private:
  std::uint16_t status(std::uint64_t ticks) const;
  State& s_;
};

/// The chip on its ports, with SCI wire and clock. S5 and S4 (the guest has saved itself) switch the machine off; S1
/// and S3 are not offered by husk's tables, and a guest that enters them all the same is awake again at once.
class AcpiPm final : public core::StatefulDevice<AcpiPmChip::State>, private mem::IoHandler {
 public:
  struct Deps {
    mem::AddressSpace& io;
    mem::LockDomain* domain = nullptr;
    core::Clock& clock;
    core::InterruptLine sci;  ///< level-triggered
    core::MachineControl& control;
    Log& log;
  };
  struct Config {
    std::uint16_t base = 0x600;       ///< of the PM block after reset, 128-byte aligned; 0: placed later by set_base()
    bool starts_in_acpi_mode = true;  ///< SCI_EN is set from reset on: no firmware, no handshake needed
  };
  static constexpr std::uint16_t kApmControlPort = 0xB2;
  static constexpr std::uint16_t kApmStatusPort = 0xB3;
  /// What the FADT names as ACPI_ENABLE and ACPI_DISABLE; written to kApmControlPort.
  static constexpr std::uint8_t kAcpiEnable = 0xA1;
  static constexpr std::uint8_t kAcpiDisable = 0xA0;

  static Result<std::unique_ptr<AcpiPm>> create(Deps deps, Config config);

  std::string_view state_id() const override { return "acpi_pm"; }
  void reset(core::ResetKind kind) override;

  /// Moves the block (PMBASE of the LPC bridge); nothing: it is not decoded. An impossible base is not decoded either.
  void set_base(std::optional<std::uint16_t> base);
  std::optional<std::uint16_t> base() const {
    return state_.base ? std::optional<std::uint16_t>(state_.base) : std::nullopt;
  }

  /// Someone pressed the button on the front: the guest is asked to shut down.
  void press_power_button();
  void press_sleep_button();
  void rtc_alarm();
  /// General-purpose event 0..63: a level that stays until taken back, or a single event.
  void set_gpe(unsigned number, bool level);
  void pulse_gpe(unsigned number);

 private:
  /// PM_TMR by itself: it is read often, and needs no lock.
  struct TimerPort final : mem::IoHandler {
    explicit TimerPort(core::Clock& clock) : clock_(clock) {}
    std::uint64_t read(const mem::Access& access) override;
    void write(const mem::Access&, std::uint64_t) override {}
    core::Clock& clock_;
  };
  struct ApmPorts final : mem::IoHandler {
    explicit ApmPorts(AcpiPm& owner) : owner_(owner) {}
    std::uint64_t read(const mem::Access& access) override;
    void write(const mem::Access& access, std::uint64_t value) override;
    AcpiPm& owner_;
  };

  AcpiPm(Deps deps, Config config);
  std::uint64_t read(const mem::Access& access) override;
  void write(const mem::Access& access, std::uint64_t value) override;
  Status validate(const AcpiPmChip::State& incoming) const override;
  void after_load() override;
  std::uint64_t ticks() const { return core::ticks_at(deps_.clock.now(), AcpiPmChip::kTimerHertz); }
  void update();
  void arm(std::uint64_t now);
  void sleep(unsigned type);
  Status map_block();

  Deps deps_;
  Config config_;
  AcpiPmChip chip_{state_};
  TimerPort timer_port_{deps_.clock};
  ApmPorts apm_ports_{*this};
  std::unique_ptr<core::Timer> overflow_;
  std::uint16_t mapped_base_ = 0;
  mem::Mapping block_;
  mem::Mapping timer_;
  mem::Mapping apm_;
};

}  // namespace husk::devices
