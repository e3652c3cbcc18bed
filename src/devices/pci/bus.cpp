// husk: PCI functions and the bus they sit on
#include "devices/pci/bus.h"

#include "base/check.h"

namespace husk::devices::pci {

Slot& Slot::operator=(Slot&& other) noexcept {
  if (this != &other) {
    if (bus_) bus_->functions_[devfn_] = nullptr;
    bus_ = std::exchange(other.bus_, nullptr);
    devfn_ = other.devfn_;
  }
  return *this;
}

Slot::~Slot() {
  if (bus_) bus_->functions_[devfn_] = nullptr;
}

Result<Slot> Bus::attach(std::uint8_t devfn, Function& function) {
  if (functions_[devfn]) return fail("PCI address {:02x}:{:02x}.{} is taken", number_, devfn >> 3, devfn & 7);
  functions_[devfn] = &function;
  return Slot(this, devfn);
}

std::uint32_t Bus::read_config(std::uint8_t devfn, unsigned offset, unsigned size) const {
  Function* const function = functions_[devfn];
  return function ? function->read_config(offset, size) : 0xFFFFFFFF;
}

void Bus::write_config(std::uint8_t devfn, unsigned offset, std::uint32_t value, unsigned size) {
  if (Function* const function = functions_[devfn]) function->write_config(offset, value, size);
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
    const auto wanted = config_.bar_address(index);
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
