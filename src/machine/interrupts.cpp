// husk: a board's interrupt controllers and its 8254, where they are husk's own
#include "machine/interrupts.h"

#include "base/check.h"

namespace husk::machine {

OwnChipset::OwnChipset(Deps deps)
    : ioapic_({.memory_space = deps.board.memory_space,
               .domain = &deps.board.chipset,
               .bus = deps.bus,
               .redirection_changed = std::move(deps.redirection_changed)}),
      pic_({.io_space = deps.board.io_space,
            .domain = &deps.board.chipset,
            .interrupt = std::move(deps.cpu_interrupt)}) {}

core::Device& OwnChipset::make_timer(const Interrupts::Deps& board, core::InterruptLine irq0) {
  HUSK_CHECK(!pit_);
  pit_ = std::make_unique<devices::Pit>(
      devices::Pit::Deps{board.io_space, &board.chipset, board.chipset_clock, std::move(irq0)});
  return *pit_;
}

OwnInterrupts::OwnInterrupts(Deps deps) : deps_(std::move(deps)) {
  mmio_ = std::make_unique<devices::ApicMmio>(devices::ApicMmio::Deps{deps_.memory_space, bus_});
  const std::uint64_t tsc_hertz = deps_.cpu_model.tsc_hz;
  for (unsigned i = 0; i < deps_.pins.size(); ++i) {
    domains_.push_back(std::make_unique<mem::LockDomain>());
    clocks_.push_back(deps_.clock.for_domain(domains_.back().get()));
    apics_.push_back(std::make_unique<devices::LocalApic>(devices::LocalApic::Deps{
        .index = i,
        .id = cpu::apic_id_of(deps_.cpu_model.topology, i),
        .bootstrap = i == 0,
        .pins = *deps_.pins[i],
        .clock = *clocks_.back(),
        .domain = domains_.back().get(),
        .bus = bus_,
        .ext_int_acknowledge = [this] { return chipset_->pic().acknowledge(); },
        .eoi_broadcast = [this](std::uint8_t vector) { chipset_->ioapic().end_of_interrupt(vector); },
        .base_changed = [this] { mmio_->bases_changed(); },
        .read_tsc = [this, tsc_hertz] { return core::ticks_at(deps_.cpu_clock.now(), tsc_hertz); },
        .tsc_hertz = tsc_hertz,
        .x2apic = deps_.cpu_model.has(cpu::Feature::x2apic),
        .physical_bits = deps_.cpu_model.physical_bits,
    }));
  }
  chipset_ = std::make_unique<OwnChipset>(OwnChipset::Deps{deps_, bus_, core::InterruptLine(ext_int_, 0)});
}

std::vector<Interrupts::Entry> OwnInterrupts::controllers() {
  std::vector<Entry> all;
  for (std::size_t i = 0; i < apics_.size(); ++i) all.push_back({apics_[i].get(), domains_[i].get()});
  all.push_back({&chipset_->ioapic(), &deps_.chipset});
  all.push_back({&chipset_->pic(), &deps_.chipset});
  return all;
}

}  // namespace husk::machine
