// husk: ACPI fixed hardware
#include "devices/acpi/pm.h"

#include "base/bits.h"
#include "base/check.h"

namespace husk::devices {

namespace {
constexpr std::uint16_t kStatusBits = AcpiPmChip::kBusMaster | AcpiPmChip::kGlobal | AcpiPmChip::kPowerButton |
                                      AcpiPmChip::kSleepButton | AcpiPmChip::kRtc | AcpiPmChip::kWake;
constexpr std::uint16_t kEnableBits = AcpiPmChip::kTimerOverflow | AcpiPmChip::kGlobal | AcpiPmChip::kPowerButton |
                                      AcpiPmChip::kSleepButton | AcpiPmChip::kRtc;
// SCI_EN, BM_RLD and SLP_TYP are kept; GBL_RLS and SLP_EN read as zero.
constexpr std::uint16_t kControlBits = 0x1C03;
constexpr std::uint8_t kSleepEnableInHighByte = 0x20;

std::uint8_t byte_of(std::uint64_t value, unsigned index) { return static_cast<std::uint8_t>(value >> (index * 8)); }
template <class T>
void put_byte(T& value, unsigned index, std::uint8_t byte) {
  value = static_cast<T>((value & ~(T{0xFF} << (index * 8))) | (T{byte} << (index * 8)));
}
std::uint64_t toggles(std::uint64_t ticks) { return ticks >> (AcpiPmChip::kTimerBits - 1); }
}  // namespace

void AcpiPmChip::reset(bool acpi_mode, std::uint64_t ticks) {
  const std::uint64_t level = s_.gpe_level;
  const std::uint16_t base = s_.base;
  s_ = State{};
  s_.gpe_level = s_.gpe_status = level;
  s_.base = base;
  s_.toggles_seen = toggles(ticks);
  set_acpi_mode(acpi_mode);
}

bool AcpiPmChip::plausible(const State& s) {
  return (s.pm1_status & ~kStatusBits) == 0 && (s.pm1_enable & ~kEnableBits) == 0 &&
         (s.pm1_control & ~kControlBits) == 0 && (s.gpe_level & ~s.gpe_status) == 0 && s.base % kBlockSize == 0;
}

void AcpiPmChip::set_acpi_mode(bool on) {
  s_.pm1_control = static_cast<std::uint16_t>(on ? s_.pm1_control | kSciEnable : s_.pm1_control & ~kSciEnable);
}

void AcpiPmChip::set_gpe(unsigned number, bool level) {
  const std::uint64_t mask = std::uint64_t{1} << number;
  s_.gpe_level = level ? s_.gpe_level | mask : s_.gpe_level & ~mask;
  s_.gpe_status |= s_.gpe_level;
}

std::uint16_t AcpiPmChip::status(std::uint64_t ticks) const {
  return static_cast<std::uint16_t>(s_.pm1_status | (toggles(ticks) != s_.toggles_seen ? kTimerOverflow : 0));
}

bool AcpiPmChip::sci(std::uint64_t ticks) const {
  return (s_.pm1_control & kSciEnable) && ((status(ticks) & s_.pm1_enable) || (s_.gpe_status & s_.gpe_enable));
}

std::optional<std::uint64_t> AcpiPmChip::next_overflow(std::uint64_t ticks) const {
  if (!(s_.pm1_enable & kTimerOverflow) || (status(ticks) & kTimerOverflow)) return std::nullopt;
  return (toggles(ticks) + 1) << (kTimerBits - 1);
}

std::uint8_t AcpiPmChip::read(unsigned offset, std::uint64_t ticks) const {
  if (offset < kPm1Enable) return byte_of(status(ticks), offset);
  if (offset < kPm1Control) return byte_of(s_.pm1_enable, offset - kPm1Enable);
  if (offset < kTimer) return byte_of(s_.pm1_control, offset - kPm1Control);
  if (offset < kTimer + 4) return byte_of(ticks, offset - kTimer);
  if (offset < kGpe0Status) return 0;
  if (offset < kGpe0Enable) return byte_of(s_.gpe_status, offset - kGpe0Status);
  if (offset < kSmiEnable) return byte_of(s_.gpe_enable, offset - kGpe0Enable);
  if (offset < kSmiStatus) return byte_of(s_.smi_enable, offset - kSmiEnable);
  return 0;
}

std::optional<unsigned> AcpiPmChip::write(unsigned offset, std::uint8_t value, std::uint64_t ticks) {
  if (offset < kPm1Enable) {
    s_.pm1_status = static_cast<std::uint16_t>(s_.pm1_status & ~(unsigned{value} << (offset * 8)));
    if (offset == 0 && (value & kTimerOverflow)) s_.toggles_seen = toggles(ticks);
  } else if (offset < kPm1Control) {
    put_byte(s_.pm1_enable, offset - kPm1Enable, value);
    s_.pm1_enable &= kEnableBits;
  } else if (offset < kTimer) {
    if (offset >= kPm1Control + 2) return std::nullopt;
    put_byte(s_.pm1_control, offset - kPm1Control, value);
    s_.pm1_control &= kControlBits;
    if (offset == kPm1Control + 1 && (value & kSleepEnableInHighByte)) return (s_.pm1_control >> 10) & 7u;
  } else if (offset >= kGpe0Status && offset < kGpe0Enable) {
    s_.gpe_status &= ~(std::uint64_t{value} << ((offset - kGpe0Status) * 8));
    s_.gpe_status |= s_.gpe_level;
  } else if (offset >= kGpe0Enable && offset < kSmiEnable) {
    put_byte(s_.gpe_enable, offset - kGpe0Enable, value);
  } else if (offset >= kSmiEnable && offset < kSmiStatus) {
    put_byte(s_.smi_enable, offset - kSmiEnable, value);
  }
  return std::nullopt;
}

AcpiPm::AcpiPm(Deps deps, Config config) : deps_(std::move(deps)), config_(config) {
  overflow_ = deps_.clock.make_timer([this] { update(); });
  state_.base = config_.base;
  chip_.reset(config_.starts_in_acpi_mode, ticks());
}

Result<std::unique_ptr<AcpiPm>> AcpiPm::create(Deps deps, Config config) {
  if (config.base % AcpiPmChip::kBlockSize)
    return fail("ACPI PM block base {:#x} is not a multiple of {:#x}", config.base, AcpiPmChip::kBlockSize);
  std::unique_ptr<AcpiPm> device(new AcpiPm(std::move(deps), config));
  HUSK_TRY(device->map_block());
  device->apm_ = HUSK_TRY(
      device->deps_.io.map(kApmControlPort, 2, device->apm_ports_,
                           {.domain = device->deps_.domain, .max_size = 1, .priority = 0, .name = "acpi_pm.apm"}));
  return device;
}

Status AcpiPm::map_block() {
  if (state_.base == mapped_base_) return {};
  block_.reset();
  timer_.reset();
  mapped_base_ = state_.base;
  if (state_.base == 0) return {};
  block_ = HUSK_TRY(deps_.io.map(state_.base, AcpiPmChip::kBlockSize, *this,
                                 {.domain = deps_.domain, .max_size = 1, .priority = 0, .name = "acpi_pm"}));
  timer_ = HUSK_TRY(deps_.io.map(state_.base + AcpiPmChip::kTimer, 4u, timer_port_,
                                 {.domain = nullptr, .max_size = 4, .priority = 1, .name = "acpi_pm.timer"}));
  return {};
}

void AcpiPm::set_base(std::optional<std::uint16_t> base) {
  state_.base = align_down<std::uint16_t>(base.value_or(0), AcpiPmChip::kBlockSize);
  const Status mapped = map_block();
  HUSK_CHECK(mapped);  // an aligned 16-bit base always fits the 64 KiB of ports
}

void AcpiPm::reset(core::ResetKind) {
  state_.base = config_.base;
  chip_.reset(config_.starts_in_acpi_mode, ticks());
  set_base(base());
  update();
}

void AcpiPm::update() {
  const std::uint64_t now = ticks();
  deps_.sci.set(chip_.sci(now));
  arm(now);
}

void AcpiPm::arm(std::uint64_t now) {
  if (const auto next = chip_.next_overflow(now))
    overflow_->arm(core::time_of_tick(*next, AcpiPmChip::kTimerHertz));
  else
    overflow_->cancel();
}

std::uint64_t AcpiPm::TimerPort::read(const mem::Access& access) {
  const std::uint64_t ticks = core::ticks_at(clock_.now(), AcpiPmChip::kTimerHertz) & mask_of(AcpiPmChip::kTimerBits);
  return ticks >> (access.offset * 8);
}

std::uint64_t AcpiPm::read(const mem::Access& access) {
  return chip_.read(static_cast<unsigned>(access.offset), ticks());
}

void AcpiPm::write(const mem::Access& access, std::uint64_t value) {
  const auto sleep_type = chip_.write(static_cast<unsigned>(access.offset), static_cast<std::uint8_t>(value), ticks());
  if (sleep_type) sleep(*sleep_type);
  update();
}

void AcpiPm::sleep(unsigned type) {
  switch (type) {
    case AcpiPmChip::kS4:
    case AcpiPmChip::kS5: deps_.control.request_shutdown(core::MachineControl::Shutdown::power_off, 0); break;
    case AcpiPmChip::kS0: break;
    default:
      deps_.log.guest_error("ACPI sleep type {} is not offered; the guest is woken at once", type);
      chip_.raise(AcpiPmChip::kWake);
  }
}

std::uint64_t AcpiPm::ApmPorts::read(const mem::Access& access) {
  return access.offset == 0 ? owner_.state_.apm_control : owner_.state_.apm_status;
}

void AcpiPm::ApmPorts::write(const mem::Access& access, std::uint64_t value) {
  const auto byte = static_cast<std::uint8_t>(value);
  if (access.offset == 1) {
    owner_.state_.apm_status = byte;
    return;
  }
  owner_.state_.apm_control = byte;
  // ACPI 4.8.2.5 has firmware do this in system management mode; husk does it in the chip.
  if (byte == kAcpiEnable) owner_.chip_.set_acpi_mode(true);
  if (byte == kAcpiDisable) owner_.chip_.set_acpi_mode(false);
  owner_.update();
}

void AcpiPm::press_power_button() {
  chip_.raise(AcpiPmChip::kPowerButton);
  update();
}
void AcpiPm::press_sleep_button() {
  chip_.raise(AcpiPmChip::kSleepButton);
  update();
}
void AcpiPm::rtc_alarm() {
  chip_.raise(AcpiPmChip::kRtc);
  update();
}
void AcpiPm::set_gpe(unsigned number, bool level) {
  HUSK_CHECK(number < AcpiPmChip::kGpe0Bytes * 8);
  chip_.set_gpe(number, level);
  update();
}
void AcpiPm::pulse_gpe(unsigned number) {
  HUSK_CHECK(number < AcpiPmChip::kGpe0Bytes * 8);
  chip_.pulse_gpe(number);
  update();
}

Status AcpiPm::validate(const AcpiPmChip::State& incoming) const {
  if (!AcpiPmChip::plausible(incoming)) return fail("saved state of acpi_pm contradicts itself");
  return {};
}

void AcpiPm::after_load() {
  set_base(base());
  const std::uint64_t now = ticks();
  deps_.sci.restore_level(chip_.sci(now));
  arm(now);
}

}  // namespace husk::devices
