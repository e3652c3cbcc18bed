// husk: Intel 8259A interrupt controller, and the master and slave pair of a PC
#include "devices/intc/pic8259.h"

#include "base/check.h"

namespace husk::devices {

namespace {
constexpr unsigned kCascade = 2;
// IRQ0 to IRQ2, IRQ8 and IRQ13 are edge-triggered always (82371SB 2.2.3).
constexpr std::uint8_t kElcrMasterWritable = 0xF8;
constexpr std::uint8_t kElcrSlaveWritable = 0xDE;
}  // namespace

// ---- the chip ----

void Pic8259::reset() {
  const std::uint8_t pins = s_.pins;
  s_ = {};
  s_.pins = pins;
  s_.irr = static_cast<std::uint8_t>(pins & level_sensed());
}

std::optional<unsigned> Pic8259::highest_of(std::uint8_t bits) const {
  for (unsigned i = 1; i <= 8; ++i) {
    const unsigned ir = (s_.lowest_priority + i) & 7;
    if (bits & (1u << ir)) return ir;
  }
  return std::nullopt;
}

std::optional<unsigned> Pic8259::highest_request() const {
  if (s_.init_step != 0) return std::nullopt;
  const auto requests = static_cast<std::uint8_t>(s_.irr & ~s_.imr);
  if (!requests) return std::nullopt;
  // Special mask mode: a masked level in service holds nothing back, lower or higher.
  auto in_service = s_.isr;
  if (s_.special_mask) in_service = static_cast<std::uint8_t>(in_service & ~s_.imr);
  // Special fully nested mode: a slave in service may interrupt again with something more urgent of its own.
  const std::uint8_t repeatable = s_.special_fully_nested ? cascade_inputs_ : std::uint8_t{0};
  for (unsigned i = 1; i <= 8; ++i) {
    const unsigned ir = (s_.lowest_priority + i) & 7;
    const unsigned mask = 1u << ir;
    const bool serving = in_service & mask;
    if ((requests & mask) && (!serving || (repeatable & mask))) return ir;
    if (serving) return std::nullopt;
  }
  return std::nullopt;
}

std::optional<unsigned> Pic8259::take() {
  const auto ir = highest_request();
  if (!ir) return std::nullopt;
  const auto mask = static_cast<std::uint8_t>(1u << *ir);
  // The edge latch is reset by the first INTA; a level input keeps requesting.
  if (!(level_sensed() & mask)) s_.irr = static_cast<std::uint8_t>(s_.irr & ~mask);
  if (s_.auto_eoi) {
    if (s_.rotate_on_auto_eoi) s_.lowest_priority = static_cast<std::uint8_t>(*ir);
  } else {
    s_.isr |= mask;
  }
  return ir;
}

void Pic8259::set_pin(unsigned ir, bool level, bool edge_allowed) {
  const auto mask = static_cast<std::uint8_t>(1u << ir);
  const bool was = s_.pins & mask;
  s_.pins = static_cast<std::uint8_t>(level ? s_.pins | mask : s_.pins & ~mask);
  if (level_sensed() & mask) {
    s_.irr = static_cast<std::uint8_t>(level ? s_.irr | mask : s_.irr & ~mask);
  } else if (level && !was && edge_allowed) {
    // The latch stays set when the input falls before INTA. The NMOS part would answer with a default IR7 then, but
    // the chipsets' cells keep it, and drivers of pulsed sources rely on that.
    s_.irr |= mask;
  }
}

void Pic8259::set_level_inputs(std::uint8_t mask) {
  s_.level_inputs = mask;
  const std::uint8_t sensed = level_sensed();
  s_.irr = static_cast<std::uint8_t>((s_.irr & ~sensed) | (s_.pins & sensed));
}

void Pic8259::write_icw1(std::uint8_t value) {
  // 231468-003, "Initialization command word 1": what every ICW1 does.
  s_.irr = 0;
  s_.isr = 0;
  s_.imr = 0;
  s_.lowest_priority = 7;
  s_.special_mask = false;
  s_.read_isr = false;
  s_.poll = false;
  s_.rotate_on_auto_eoi = false;
  s_.icw4_needed = value & 0x01;
  s_.single = value & 0x02;
  s_.level_mode = value & 0x08;
  if (!s_.icw4_needed) {
    s_.auto_eoi = false;
    s_.special_fully_nested = false;
  }
  s_.init_step = 2;
  s_.irr = static_cast<std::uint8_t>(s_.pins & level_sensed());
}

void Pic8259::write_ocw2(std::uint8_t value) {
  const unsigned level = value & 7;
  const auto in_service = static_cast<std::uint8_t>(s_.special_mask ? s_.isr & ~s_.imr : s_.isr);
  switch (value >> 5) {
    case 0: s_.rotate_on_auto_eoi = false; break;
    case 4: s_.rotate_on_auto_eoi = true; break;
    case 1:    // non-specific EOI
    case 5: {  // rotate on non-specific EOI
      const auto ir = highest_of(in_service);
      if (!ir) break;
      end_of_interrupt(*ir);
      if (value & 0x80) s_.lowest_priority = static_cast<std::uint8_t>(*ir);
      break;
    }
    case 3: end_of_interrupt(level); break;
    case 6: s_.lowest_priority = static_cast<std::uint8_t>(level); break;
    case 7:
      end_of_interrupt(level);
      s_.lowest_priority = static_cast<std::uint8_t>(level);
      break;
    default: break;  // 2: no operation
  }
}

void Pic8259::write_ocw3(std::uint8_t value) {
  if (value & 0x40) s_.special_mask = value & 0x20;
  // "If both P and RR are set the poll command overrides": RR is remembered all the same.
  s_.poll = value & 0x04;
  if (value & 0x02) s_.read_isr = value & 0x01;
}

void Pic8259::write(bool a0, std::uint8_t value) {
  if (!a0) {
    if (value & 0x10)
      write_icw1(value);
    else if (value & 0x08)
      write_ocw3(value);
    else
      write_ocw2(value);
    return;
  }
  switch (s_.init_step) {
    case 2:
      s_.vector_base = value & 0xF8;
      s_.init_step = s_.single ? (s_.icw4_needed ? 4 : 0) : 3;
      break;
    case 3:
      s_.icw3 = value;
      s_.init_step = s_.icw4_needed ? 4 : 0;
      break;
    case 4:
      s_.special_fully_nested = value & 0x10;
      s_.auto_eoi = value & 0x02;
      s_.init_step = 0;
      break;
    default: s_.imr = value; break;
  }
}

std::uint8_t Pic8259::read(bool a0) {
  if (s_.poll) {
    s_.poll = false;
    const auto ir = take();
    return ir ? static_cast<std::uint8_t>(0x80 | *ir) : std::uint8_t{0};
  }
  if (a0) return s_.imr;
  return s_.read_isr ? s_.isr : s_.irr;
}

// ---- the pair ----

PicPair::PicPair(Deps deps)
    : deps_(std::move(deps)),
      master_(state_.master, 1u << kCascade, !deps_.elcr),
      slave_(state_.slave, 0, !deps_.elcr) {
  const auto map = [&](std::size_t n, mem::Gpa port, Ports& ports, const char* name) {
    auto mapping = deps_.io_space.map(port, 2, ports, {deps_.domain, 1, 0, name});
    HUSK_CHECK(mapping);
    mappings_[n] = *std::move(mapping);
  };
  map(0, 0x20, master_ports_, "pic-master");
  map(1, 0xA0, slave_ports_, "pic-slave");
  if (deps_.elcr) map(2, 0x4D0, elcr_ports_, "pic-elcr");
}

void PicPair::reset(core::ResetKind) {
  slave_.reset();
  master_.reset();
  update();
}

void PicPair::update() {
  master_.set_pin(kCascade, slave_.interrupt());
  deps_.interrupt.set(master_.interrupt());
}

void PicPair::set_pin(unsigned pin, bool level) {
  const mem::DomainGuard guard(deps_.domain);
  if (pin >= 16 || pin == kCascade) return;
  if (pin < 8)
    master_.set_pin(pin, level);
  else
    slave_.set_pin(pin - 8, level);
  update();
}

void PicPair::restore_pin(unsigned pin, bool level) {
  const mem::DomainGuard guard(deps_.domain);
  if (pin >= 16 || pin == kCascade) return;
  if (pin < 8)
    master_.set_pin(pin, level, false);
  else
    slave_.set_pin(pin - 8, level, false);
  update();
}

std::uint8_t PicPair::acknowledge() {
  const mem::DomainGuard guard(deps_.domain);
  const auto ir = master_.take();
  std::uint8_t vector = master_.vector(ir.value_or(7));
  if (ir == kCascade) vector = slave_.vector(slave_.take().value_or(7));
  update();
  return vector;
}

std::uint8_t PicPair::read_port(Ports::What what, bool a0) {
  if (what == Ports::What::elcr) return a0 ? state_.slave.level_inputs : state_.master.level_inputs;
  const std::uint8_t value = what == Ports::What::master ? master_.read(a0) : slave_.read(a0);
  update();  // a poll acknowledges
  return value;
}

void PicPair::write_port(Ports::What what, bool a0, std::uint8_t value) {
  switch (what) {
    case Ports::What::master: master_.write(a0, value); break;
    case Ports::What::slave: slave_.write(a0, value); break;
    case Ports::What::elcr:
      if (a0)
        slave_.set_level_inputs(value & kElcrSlaveWritable);
      else
        master_.set_level_inputs(value & kElcrMasterWritable);
      break;
  }
  update();
}

Status PicPair::check(const PicPairState& incoming) {
  if (incoming.master.level_inputs & ~kElcrMasterWritable || incoming.slave.level_inputs & ~kElcrSlaveWritable)
    return fail("saved pic makes an input level-triggered that is wired for edges: {:#x}, {:#x}",
                incoming.master.level_inputs, incoming.slave.level_inputs);
  if ((incoming.master.vector_base | incoming.slave.vector_base) & 7)
    return fail("saved pic has a vector base that is no multiple of 8");
  return {};
}

void PicPair::after_load() {
  master_.set_pin(kCascade, slave_.interrupt());
  deps_.interrupt.restore_level(master_.interrupt());
}

}  // namespace husk::devices
