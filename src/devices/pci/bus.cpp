// husk: PCI functions and the bus they sit on
#include "devices/pci/bus.h"

#include "base/check.h"

namespace husk::devices::pci {

Slot& Slot::operator=(Slot&& other) noexcept {
  if (this != &other) {
    if (bus_) bus_->places_[devfn_] = {};
    bus_ = std::exchange(other.bus_, nullptr);
    devfn_ = other.devfn_;
  }
  return *this;
}

Slot::~Slot() {
  if (bus_) bus_->places_[devfn_] = {};
}

Result<Slot> Bus::attach(std::uint8_t devfn, Function& function, mem::LockDomain* domain, Downstream* downstream) {
  if (places_[devfn].function) return fail("PCI address {:02x}:{:02x}.{} is taken", number(), devfn >> 3, devfn & 7);
  places_[devfn] = {&function, domain, downstream};
  return Slot(this, devfn);
}

std::optional<unsigned> Bus::free_device(unsigned from) const {
  for (unsigned device = from; device < 32; ++device) {
    bool taken = false;
    for (unsigned function = 0; function < 8; ++function) taken |= places_[device * 8 + function].function != nullptr;
    if (!taken) return device;
  }
  return std::nullopt;
}

std::uint32_t Bus::read_config(std::uint8_t devfn, unsigned offset, unsigned size) const {
  const Place& place = places_[devfn];
  if (!place.function) return 0xFFFFFFFF;
  const mem::DomainGuard guard(place.domain);
  return place.function->read_config(offset, size);
}

void Bus::write_config(std::uint8_t devfn, unsigned offset, std::uint32_t value, unsigned size) {
  const Place& place = places_[devfn];
  if (!place.function) return;
  const mem::DomainGuard guard(place.domain);
  place.function->write_config(offset, value, size);
}

Bus* Bus::find(unsigned wanted) {
  if (wanted == number()) return this;
  for (const Place& place : places_)
    if (Bus* const below = place.downstream ? place.downstream->route(wanted) : nullptr)
      return below->number() == wanted ? below : below->find(wanted);
  return nullptr;
}

void Bus::decode_changed() {
  for (const Place& place : places_) {
    if (!place.function) continue;
    const mem::DomainGuard guard(place.domain);
    place.function->decode_changed();
  }
}

void Bus::bus_reset() {
  for (const Place& place : places_) {
    if (!place.function) continue;
    const mem::DomainGuard guard(place.domain);
    place.function->bus_reset();
  }
}

core::InterruptLine IntxRouter::line(unsigned device, unsigned pin) {
  const mem::DomainGuard guard(domain_);
  inputs_.push_back({static_cast<unsigned>((device + pin) % wires_.size()), false});
  return core::InterruptLine(*this, static_cast<unsigned>(inputs_.size() - 1));
}

unsigned IntxRouter::take(unsigned pin, bool level) {
  Input& input = inputs_[pin];
  if (input.level != level) {
    input.level = level;
    if (level)
      ++raised_[input.wire];
    else
      --raised_[input.wire];
  }
  return input.wire;
}

void IntxRouter::set_pin(unsigned pin, bool level) {
  const mem::DomainGuard guard(domain_);
  const unsigned wire = take(pin, level);
  wires_[wire].set(raised_[wire] != 0);
}

void IntxRouter::restore_pin(unsigned pin, bool level) {
  const mem::DomainGuard guard(domain_);
  const unsigned wire = take(pin, level);
  wires_[wire].restore_level(raised_[wire] != 0);
}

void FunctionLogic::set_bar_handler(unsigned index, mem::IoHandler& handler, std::string name, std::uint8_t max_size) {
  const BarSpec::Kind kind = config_.bar(index).kind;
  HUSK_CHECK(kind == BarSpec::Kind::io ? deps_.io != nullptr : kind != BarSpec::Kind::none && deps_.memory != nullptr);
  bars_[index].handler = &handler;
  bars_[index].name = std::move(name);
  bars_[index].max_size = max_size;
  map_bars();
}

void FunctionLogic::write_config(unsigned offset, std::uint32_t value, unsigned size) {
  config_.write(offset, value, size);
  const bool header = offset < kBar0 + kBarCount * 4 && offset + size > kCommand;
  if (!header) return;
  map_bars();
  set_intx(intx_);
}

void FunctionLogic::map_bars() {
  for (unsigned index = 0; index < kBarCount; ++index) {
    Bar& bar = bars_[index];
    if (!bar.handler) continue;
    auto wanted = config_.bar_address(index);
    if (wanted && deps_.bus &&
        !deps_.bus->decodes(config_.bar(index).kind == BarSpec::Kind::io, *wanted, config_.bar(index).size))
      wanted.reset();
    if (wanted == bar.address) continue;
    bar.mapping.reset();
    bar.address = wanted;
    if (!wanted) continue;
    const BarSpec& spec = config_.bar(index);
    mem::AddressSpace& space = spec.kind == BarSpec::Kind::io ? *deps_.io : *deps_.memory;
    // A guest may put a BAR beyond the address space; then nothing decodes it, as on a bus with fewer address lines.
    if (auto mapping =
            space.map(*wanted, spec.size, *bar.handler,
                      {.domain = deps_.domain, .max_size = bar.max_size, .priority = kBarPriority, .name = bar.name}))
      bar.mapping = std::move(*mapping);
  }
}

bool FunctionLogic::intx_level(bool asserted) {
  intx_ = asserted;
  // Status bit 3 shows the request even while the command register keeps it from the pin (PCI 3.0, 6.2.3).
  const auto status = config_.get(kStatus, 2) & ~std::uint64_t{kStatusInterrupt};
  config_.set(kStatus, 2, status | (asserted ? kStatusInterrupt : 0));
  return asserted && !(config_.get(kCommand, 2) & kCommandIntxDisable);
}

void FunctionLogic::set_intx(bool asserted) { deps_.intx.set(intx_level(asserted)); }
void FunctionLogic::restore_intx(bool asserted) { deps_.intx.restore_level(intx_level(asserted)); }

void FunctionLogic::reset() {
  config_.reset();
  map_bars();
  set_intx(false);
}

}  // namespace husk::devices::pci
