// husk: a board's interrupt controllers and its 8254, where they are husk's own
#include "machine/interrupts.h"

namespace husk::machine {

// ---- ends ----

namespace {
std::vector<std::uint8_t> saved(const Interrupts::Entry& entry) {
  const mem::DomainGuard guard(entry.domain);
  state::StateWriter writer;
  entry.device->save(writer);
  return std::move(writer).take();
}
Status load(const Interrupts::Entry& entry, const std::vector<std::uint8_t>& bytes) {
  const mem::DomainGuard guard(entry.domain);
  state::StateReader reader(bytes);
  return entry.device->load(reader);
}
}  // namespace

Status InterruptEnds::exchange(std::unique_ptr<Interrupts>& with) {
  now_->settle();
  std::vector<std::vector<std::uint8_t>> states;
  for (const Interrupts::Entry& entry : now_->controllers()) states.push_back(saved(entry));
  const auto timer = saved(now_->timer());
  std::swap(now_, with);
  const auto done = [&]() -> Status {
    std::size_t next = 0;
    for (const Interrupts::Entry& entry : now_->controllers()) HUSK_TRY(load(entry, states[next++]));
    // One 8254 no longer drives the wire, and the other may not either, being wired inside.
    irq0_.restore_level(false);
    return load(now_->timer(), timer);
  }();
  if (!done) take_back(with);
  return done;
}

void InterruptEnds::take_back(std::unique_ptr<Interrupts>& with) {
  std::swap(now_, with);
  irq0_.restore_level(false);
  // Drives the wire again. What it has just told it takes back.
  (void)load(now_->timer(), saved(now_->timer()));
}

// ---- husk's own ----

OwnChipset::OwnChipset(Deps deps)
    : ioapic_({.memory_space = deps.board.memory_space,
               .domain = &deps.board.chipset,
               .bus = deps.bus,
               .redirection_changed = std::move(deps.redirection_changed)}),
      pic_(
          {.io_space = deps.board.io_space, .domain = &deps.board.chipset, .interrupt = std::move(deps.cpu_interrupt)}),
      pit_({deps.board.io_space, &deps.board.chipset, deps.board.chipset_clock,
            core::InterruptLine(deps.board.irq0, 0)}) {}

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
