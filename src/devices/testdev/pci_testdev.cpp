// husk: pci-testdev
#include "devices/testdev/pci_testdev.h"

#include <bit>

#include "base/bits.h"

namespace husk::devices {

namespace {
constexpr pci::Identity kIdentity{
    .vendor = 0x1B36, .device = 0x0005, .class_code = 0x00FF00, .subsystem_vendor = 0x1AF4, .subsystem = 0x1100};
constexpr std::uint8_t kNoTest = 0xFF;

/// The header's fields, by offset.
enum Header : std::uint64_t { kChosen = 0, kWidth = 1, kOffset = 4, kData = 8, kCount = 12, kName = 16 };

struct Test {
  std::string_view name;
  std::uint32_t offset;  ///< where it wants to be written
  std::uint8_t data;
  bool any_data;  ///< writes of other data count too
};
constexpr std::uint8_t kMatching = 0xFA, kNotMatching = 0xCE;
constexpr Test kAllTests[] = {
    {"mmio-no-eventfd", 2048, kMatching, false},          {"mmio-wildcard-eventfd", 2049, kNotMatching, true},
    {"mmio-datamatch-eventfd", 2050, kMatching, false},   {"portio-no-eventfd", 131, kMatching, false},
    {"portio-wildcard-eventfd", 132, kNotMatching, true}, {"portio-datamatch-eventfd", 133, kMatching, false}};
static_assert(std::size(kAllTests) == 2 * PciTestdev::kTests);

std::uint8_t byte_of(std::uint32_t value, std::uint64_t index) {
  return static_cast<std::uint8_t>(value >> (index * 8));
}
}  // namespace

PciTestdev::PciTestdev(Deps deps, Config config)
    : deps_(deps),
      config_(std::move(config)),
      space_(state_.config, kIdentity, false),
      logic_(space_,
             {.memory = &deps_.memory, .io = &deps_.io, .domain = deps_.domain, .intx = {}, .bus = &deps_.bus}) {
  space_.add_bar(0, {pci::BarSpec::Kind::memory32, kMemorySize});
  space_.add_bar(1, {pci::BarSpec::Kind::io, kPortCount});
  if (config_.memory_bar) space_.add_bar(2, {pci::BarSpec::Kind::memory64, config_.memory_bar, true});
  logic_.set_bar_handler(0, memory_bar_, config_.id, 1);
  logic_.set_bar_handler(1, io_bar_, config_.id + ".io", 1);
}

Result<std::unique_ptr<PciTestdev>> PciTestdev::create(Deps deps, Config config) {
  if (config.memory_bar && (!std::has_single_bit(config.memory_bar) || config.memory_bar < 16))
    return std::unexpected(Error{fmt::format("{}: a BAR cannot have {} bytes", config.id, config.memory_bar),
                                 "give a power of two of at least 16"});
  std::unique_ptr<PciTestdev> device(new PciTestdev(deps, std::move(config)));
  device->slot_ = HUSK_TRY(deps.bus.attach(device->config_.devfn, *device, deps.domain));
  return device;
}

void PciTestdev::reset(core::ResetKind) {
  state_.current = kNoTest;
  state_.counts = {};
  logic_.reset();
}

std::uint8_t PciTestdev::read(std::uint64_t offset) const {
  if (state_.current == kNoTest) return 0;
  const Test& test = kAllTests[state_.current];
  if (offset == kChosen) return state_.current;
  if (offset == kWidth) return 1;
  if (offset >= kOffset && offset < kData) return byte_of(test.offset, offset - kOffset);
  if (offset == kData) return test.data;
  if (offset >= kCount && offset < kName) return byte_of(state_.counts[state_.current], offset - kCount);
  if (offset >= kName && offset - kName < test.name.size()) return static_cast<std::uint8_t>(test.name[offset - kName]);
  return 0;
}

void PciTestdev::write(unsigned first_test, std::uint64_t offset, std::uint8_t value) {
  if (offset == kChosen) {
    state_.current = kNoTest;
    if (value >= kTests) return;
    state_.current = static_cast<std::uint8_t>(first_test + value);
    state_.counts[state_.current] = 0;
    return;
  }
  if (state_.current == kNoTest) return;
  const Test& test = kAllTests[state_.current];
  if (offset == test.offset && (test.any_data || value == test.data)) ++state_.counts[state_.current];
}

Status PciTestdev::validate(const PciTestdevState& incoming) const {
  HUSK_TRY(space_.validate(incoming.config, config_.id));
  if (incoming.current != kNoTest && incoming.current >= std::size(kAllTests))
    return fail("the saved state of {} has a test {} that there is not", config_.id, incoming.current);
  return {};
}

}  // namespace husk::devices
