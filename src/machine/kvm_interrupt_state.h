// husk: the state records of interrupt controllers and timer as KVM's structures, and back
#pragma once

#if HUSK_HAVE_KVM

#include <linux/kvm.h>

#include "core/clock.h"
#include "devices/intc/ioapic.h"
#include "devices/intc/local_apic.h"
#include "devices/intc/pic8259.h"
#include "devices/timer/pit8254.h"

namespace husk::machine::kvm_state {

// Pure conversions. A `take` writes what KVM's structure holds and leaves the rest of the record as it was, so that a
// record which went into KVM comes out with all that it had.

/// IA32_APIC_BASE and the TSC deadline are MSRs and in neither direction part of this. A one-shot timer that has
/// expired goes in as one that was never started: KVM would let it expire anew.
kvm_lapic_state to_lapic(const devices::LocalApicState& state, std::uint32_t apic_id, core::VmTime now);
/// A one-shot timer at zero may not have interrupted yet: it is then due at once, since an interrupt too many does less
/// harm than one that never comes. `state.base` is the one that belongs to `from`.
void take_lapic(devices::LocalApicState& state, const kvm_lapic_state& from, core::VmTime now);

/// `state.pins` goes in as far as it requests: the levels of level-triggered pins.
kvm_ioapic_state to_ioapic(const devices::IoapicState& state);
/// `pins` is not KVM's to know, and left alone.
void take_ioapic(devices::IoapicState& state, const kvm_ioapic_state& from);

kvm_pic_state to_pic(const devices::Pic8259::State& state, bool master);
/// Pin 2 of the master is the slave's output and set by take_pics.
void take_pic(devices::Pic8259::State& state, const kvm_pic_state& from, bool master);
void take_pics(devices::PicPairState& state, const kvm_pic_state& master, const kvm_pic_state& slave);
/// INT of the master.
bool pic_output(const devices::PicPairState& state);

/// `count_load_time` is how long ago the count was loaded, in ns; `now` the machine's time in ticks of the 8254.
kvm_pit_state2 to_pit(const devices::PitState& state, std::uint64_t now);
void take_pit(devices::PitState& state, const kvm_pit_state2& from, std::uint64_t now);

}  // namespace husk::machine::kvm_state

#endif
