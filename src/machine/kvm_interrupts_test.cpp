// husk: tests of interrupt controllers in KVM: conversions anywhere, round trips where /dev/kvm opens
#include "machine/kvm_interrupts.h"

#include <gtest/gtest.h>

#if HUSK_HAVE_KVM

#include <cstring>
#include <memory>

#include "accel/kvm/kvm_accel.h"
#include "machine/kvm_interrupt_state.h"

namespace husk::machine {
namespace {

using devices::IoapicState;
using devices::LocalApicState;
using devices::Pic8259;
using devices::PicPairState;
using devices::PitState;

/// A record field by field, so that a failure names what differs.
template <state::Declared T>
std::string text_of(const T& record) {
  struct Text final : state::Inspector {
    void value(std::string_view path, std::string shown) override { all += fmt::format("{}={}\n", path, shown); }
    std::string all;
  } text;
  text.record(record);
  return text.all;
}
template <state::Declared T>
std::vector<std::uint8_t> bytes_of(const T& record) {
  state::StateWriter writer;
  writer.record(record);
  return std::move(writer).take();
}
std::uint32_t reg(const kvm_lapic_state& page, unsigned offset) {
  std::uint32_t value;
  std::memcpy(&value, page.regs + offset, 4);
  return value;
}

constexpr core::VmTime kNow = 5'000'000'000;

/// A periodic timer with 700 of 1000 counts to go at kNow; no two registers alike.
LocalApicState busy_lapic() {
  LocalApicState s = devices::local_apic_reset_state(true);
  s.task_priority = 0x23;
  s.logical_destination = 0x0400'0000;
  s.spurious = 0x1FE;
  s.error_status = 0x40;
  s.icr_low = 0x000C'4123;
  s.icr_high = 0x0300'0000;
  s.lvt = {0x000200EC, 0x00010000, 0x00000400, 0x00008700, 0x00010400, 0x000000FE};
  s.irr = {0x1'0000'0000, 2, 4, 0x8000'0000'0000'0000};
  s.isr = {0x2'0000'0000, 16, 32, 64};
  s.tmr = {0x4'0000'0000, 128, 256, 512};
  s.divide = 0xB;
  s.initial_count = 1000;
  s.first_count = 700;
  s.timer_start = kNow;
  s.timer_expiry = 700;
  return s;
}

// SDM vol. 3, table 11-1: offsets of the registers; 256 bits are eight registers 16 bytes apart.
TEST(KvmInterruptState, ALocalApicsRegistersAreWhereTheManualHasThem) {
  const kvm_lapic_state page = kvm_state::to_lapic(busy_lapic(), 5, kNow);
  EXPECT_EQ(reg(page, 0x20), 0x0500'0000u);
  EXPECT_EQ(reg(page, 0x80), 0x23u);
  EXPECT_EQ(reg(page, 0xD0), 0x0400'0000u);
  EXPECT_EQ(reg(page, 0xF0), 0x1FEu);
  EXPECT_EQ(reg(page, 0x110), 2u) << "ISR, vectors 32 to 63";
  EXPECT_EQ(reg(page, 0x190), 4u) << "TMR";
  EXPECT_EQ(reg(page, 0x210), 1u) << "IRR";
  EXPECT_EQ(reg(page, 0x270), 0x8000'0000u) << "IRR, vectors 224 to 255";
  EXPECT_EQ(reg(page, 0x280), 0x40u);
  EXPECT_EQ(reg(page, 0x300), 0x000C'4123u);
  EXPECT_EQ(reg(page, 0x310), 0x0300'0000u);
  EXPECT_EQ(reg(page, 0x320), 0x000200ECu) << "timer";
  EXPECT_EQ(reg(page, 0x350), 0x00008700u) << "LINT0";
  EXPECT_EQ(reg(page, 0x370), 0x000000FEu) << "error";
  EXPECT_EQ(reg(page, 0x380), 1000u);
  EXPECT_EQ(reg(page, 0x390), 700u);
  EXPECT_EQ(reg(page, 0x3E0), 0xBu);
}

TEST(KvmInterruptState, ALocalApicComesBackByteForByte) {
  const LocalApicState from = busy_lapic();
  LocalApicState to;
  to.base = from.base;
  kvm_state::take_lapic(to, kvm_state::to_lapic(from, 0, kNow), kNow);
  EXPECT_EQ(text_of(to), text_of(from));
  EXPECT_EQ(bytes_of(to), bytes_of(from));
  LocalApicState reset = devices::local_apic_reset_state(false), again;
  again.base = reset.base;
  kvm_state::take_lapic(again, kvm_state::to_lapic(reset, 3, kNow), kNow);
  EXPECT_EQ(bytes_of(again), bytes_of(reset));
}

TEST(KvmInterruptState, WhatALocalApicInKvmHasNotStaysInTheRecord) {
  LocalApicState state = busy_lapic();
  state.error_pending = 0x20;
  state.error_armed = false;
  state.ext_int = true;
  state.lint = {true, true};
  const auto before = bytes_of(state);
  kvm_state::take_lapic(state, kvm_state::to_lapic(state, 0, kNow), kNow);
  EXPECT_EQ(bytes_of(state), before);
}

// SDM vol. 3, 11.5.4: the divide configuration 1011 divides by 1; both sides count at 1 GHz before that.
TEST(KvmInterruptState, ATimerGoesOnFromWhereItStands) {
  LocalApicState s = busy_lapic();
  EXPECT_EQ(reg(kvm_state::to_lapic(s, 0, kNow + 100), 0x390), 600u);
  EXPECT_EQ(reg(kvm_state::to_lapic(s, 0, kNow + 1200), 0x390), 500u) << "in the next period of 1000";
  s.divide = 0;  // by 2
  EXPECT_EQ(reg(kvm_state::to_lapic(s, 0, kNow + 100), 0x390), 650u);
  s.lvt[0] = 0xEC;  // one-shot
  EXPECT_EQ(reg(kvm_state::to_lapic(s, 0, kNow + 9000), 0x390), 1u) << "due, and not yet told: at once";
  s.first_count = 0;
  const kvm_lapic_state expired = kvm_state::to_lapic(s, 0, kNow);
  EXPECT_EQ(reg(expired, 0x380), 0u) << "KVM would let an expired one expire again";
  // TMCCT at zero in KVM may be an interrupt that is still to come.
  kvm_lapic_state page = kvm_state::to_lapic(busy_lapic(), 0, kNow);
  std::memset(page.regs + 0x390, 0, 4);
  const std::uint32_t one_shot = 0xEC;
  std::memcpy(page.regs + 0x320, &one_shot, 4);
  kvm_state::take_lapic(s, page, kNow);
  EXPECT_EQ(s.first_count, 1u);
}

TEST(KvmInterruptState, AnX2apicsDerivedRegisterIsNotTaken) {
  LocalApicState s = busy_lapic();
  s.base |= devices::LocalApic::kBaseX2apic;
  kvm_lapic_state page = kvm_state::to_lapic(s, 0, kNow);
  const std::uint32_t derived = 0x0000'0001;
  std::memcpy(page.regs + 0xD0, &derived, 4);
  kvm_state::take_lapic(s, page, kNow);
  EXPECT_EQ(s.logical_destination, 0x0400'0000u);
  EXPECT_TRUE(devices::check_local_apic(s, {.tsc_deadline = true}, "lapic0"));
}

// 82093AA, 3.2.4.
TEST(KvmInterruptState, AnIoapicComesBackByteForByte) {
  IoapicState from;
  from.index = 0x12;
  from.id = 7;
  from.pins = (1u << 4) | (1u << 9) | (1u << 16);
  for (unsigned pin = 0; pin < 24; ++pin) from.redirection[pin] = (std::uint64_t{pin} << 56) | 0x10000 | (0x30 + pin);
  from.redirection[9] = (std::uint64_t{3} << 56) | 0xC931;  // level, remote IRR, logical, lowest priority
  from.redirection[4] = 0x41;                               // edge
  const kvm_ioapic_state kvm = kvm_state::to_ioapic(from);
  EXPECT_EQ(kvm.irr, 1u << 9) << "edges are not told again";
  EXPECT_EQ(kvm.redirtbl[9].fields.remote_irr, 1);
  EXPECT_EQ(kvm.redirtbl[9].fields.trig_mode, 1);
  EXPECT_EQ(kvm.redirtbl[9].fields.delivery_mode, 1);
  EXPECT_EQ(kvm.redirtbl[9].fields.dest_mode, 1);
  EXPECT_EQ(kvm.redirtbl[9].fields.dest_id, 3);
  EXPECT_EQ(kvm.redirtbl[5].fields.mask, 1);
  IoapicState to;
  to.pins = from.pins;
  kvm_state::take_ioapic(to, kvm);
  EXPECT_EQ(text_of(to), text_of(from));
  EXPECT_EQ(bytes_of(to), bytes_of(from));
  EXPECT_TRUE(devices::Ioapic::check(to));
}

TEST(KvmInterruptState, NoEntryOfKvmsIoapicMakesARecordThatCannotBeLoaded) {
  kvm_ioapic_state kvm{};
  for (auto& entry : kvm.redirtbl) entry.bits = ~std::uint64_t{0};
  IoapicState state;
  kvm_state::take_ioapic(state, kvm);
  EXPECT_TRUE(devices::Ioapic::check(state));
}

PicPairState busy_pics() {
  PicPairState s;
  s.master = {.irr = 0x85,
              .imr = 0x12,
              .isr = 0x01,
              .pins = 0x85,
              .level_inputs = 0x20,
              .vector_base = 0x30,
              .icw3 = 4,
              .lowest_priority = 2,
              .icw4_needed = true,
              .auto_eoi = true,
              .special_mask = true,
              .read_isr = true};
  s.slave = {.irr = 0x02,
             .imr = 0x80,
             .isr = 0x00,
             .pins = 0x06,
             .level_inputs = 0x0A,
             .vector_base = 0x38,
             .icw3 = 2,
             .init_step = 0,
             .icw4_needed = true,
             .special_fully_nested = true,
             .rotate_on_auto_eoi = true,
             .poll = true};
  return s;
}

TEST(KvmInterruptState, The8259sComeBackByteForByte) {
  const PicPairState from = busy_pics();
  const kvm_pic_state master = kvm_state::to_pic(from.master, true), slave = kvm_state::to_pic(from.slave, false);
  EXPECT_EQ(master.priority_add, 3) << "the highest priority follows the lowest";
  EXPECT_EQ(master.elcr_mask, 0xF8);
  EXPECT_EQ(slave.elcr_mask, 0xDE);
  EXPECT_EQ(master.last_irr & 4, 0) << "KVM pulses the cascade";
  EXPECT_EQ(master.irr & 4, 4);
  PicPairState to;
  kvm_state::take_pics(to, master, slave);
  EXPECT_EQ(text_of(to), text_of(from));
  EXPECT_EQ(bytes_of(to), bytes_of(from));
  EXPECT_TRUE(devices::PicPair::check(to));
  EXPECT_TRUE(kvm_state::pic_output(to));
}

TEST(KvmInterruptState, AnInitialisationUnderWayGoesOn) {
  for (const unsigned expected : {0u, 2u, 3u, 4u}) {
    const auto step = static_cast<std::uint8_t>(expected);
    Pic8259::State from, to;
    from.init_step = step;
    const kvm_pic_state kvm = kvm_state::to_pic(from, true);
    EXPECT_EQ(kvm.init_state, step ? step - 1 : 0);
    kvm_state::take_pic(to, kvm, true);
    EXPECT_EQ(to.init_step, step);
  }
}

TEST(KvmInterruptState, The8254ComesBackByteForByte) {
  constexpr std::uint64_t kTick = 1'000'000;
  PitState from;
  auto& [a, b, c] = from.counters;
  a = {.mode = 2,
       .access = 3,
       .loaded = true,
       .count = 11932,
       .base = kTick,
       .progress = 5000,
       .low_byte = 0x34,
       .write_high_next = true,
       .latched_count = 0x1234,
       .latched_status = {}};
  b = {.mode = 3,
       .access = 1,
       .bcd = true,
       .loaded = true,
       .count = 18,
       .base = kTick,
       .progress = 4,
       .latched_count = {},
       .latched_status = 0x96};
  c = {.mode = 0,
       .access = 3,
       .gate = false,
       .loaded = true,
       .count = 65536,
       .base = kTick,
       .progress = 77,
       .read_high_next = true,
       .latched_count = {},
       .latched_status = {}};
  from.port61 = 0xE;
  from.output_disabled = true;
  const kvm_pit_state2 kvm = kvm_state::to_pit(from, kTick);
  EXPECT_EQ(kvm.channels[0].count_latched, 3) << "both bytes are still to be read";
  EXPECT_EQ(kvm.channels[0].write_state, 4) << "the high byte comes next";
  EXPECT_EQ(kvm.channels[2].read_state, 4);
  EXPECT_EQ(kvm.channels[0].count_load_time, 4'190'476) << "5000 ticks of 1193182 Hz, rounded up";
  EXPECT_TRUE(kvm.flags & KVM_PIT_FLAGS_HPET_LEGACY);
  EXPECT_TRUE(kvm.flags & KVM_PIT_FLAGS_SPEAKER_DATA_ON);
  PitState to;
  to.port61 = 0xC;
  kvm_state::take_pit(to, kvm, kTick);
  EXPECT_EQ(text_of(to), text_of(from));
  EXPECT_EQ(bytes_of(to), bytes_of(from));
}

TEST(KvmInterruptState, ACounterThatNobodyTouchedIsOneInKvmToo) {
  PitState from, to;
  from.counters[2].gate = false;
  const kvm_pit_state2 kvm = kvm_state::to_pit(from, 12345);
  EXPECT_EQ(kvm.channels[0].mode, 0xFF);
  EXPECT_EQ(kvm.channels[0].count, 0x10000u);
  kvm_state::take_pit(to, kvm, 12345);
  EXPECT_EQ(text_of(to), text_of(from));
  EXPECT_EQ(bytes_of(to), bytes_of(from));
}

// ---- with KVM ----

struct NoPins final : core::CpuPins {
  void interrupt_changed() override {}
  void nmi() override {}
  void smi() override {}
  void init() override {}
  void startup(std::uint8_t) override {}
};

struct NoWire final : core::LineSink {
  void set_pin(unsigned, bool) override {}
  void restore_pin(unsigned, bool) override {}
};

/// The interrupt controllers of a machine with one CPU, in one of the modes.
class Controllers {
 public:
  Controllers(accel::kvm::System& system, std::optional<accel::kvm::IrqchipMode> mode) {
    model_ = system.adapt(cpu::cpu_model("max").value(), log_).value();
    Interrupts::Deps deps{memory_, io_, clock_, *chipset_clock_, *cpu_clock_, chipset_, model_, {&pins_}, irq0_, log_};
    if (!mode) {
      interrupts_ = OwnInterrupts::create(deps).value();
    } else {
      accel_ = accel::KvmAccel::create({system, memory_, io_, *cpu_clock_, log_, *mode}).value();
      interrupts_ = make_kvm_interrupts(accel_->irqchip(), deps).value();
      vcpu_ = accel_->create_vcpu({0, model_, interrupts_->cpu(0)}).value();
    }
    all_ = interrupts_->controllers();
    all_.push_back(interrupts_->timer());
  }
  ~Controllers() { vcpu_.reset(); }

  std::vector<std::vector<std::uint8_t>> save() {
    std::vector<std::vector<std::uint8_t>> saved;
    for (const auto& [device, domain] : all_) {
      const mem::DomainGuard guard(domain);
      state::StateWriter writer;
      device->save(writer);
      saved.push_back(std::move(writer).take());
    }
    return saved;
  }
  void load(const std::vector<std::vector<std::uint8_t>>& saved) {
    ASSERT_EQ(saved.size(), all_.size());
    for (std::size_t i = 0; i < all_.size(); ++i) {
      const auto done = load(i, saved[i]);
      ASSERT_TRUE(done) << done.error().text();
    }
  }
  Status load(std::size_t which, const std::vector<std::uint8_t>& saved) {
    const mem::DomainGuard guard(all_[which].domain);
    state::StateReader reader(saved);
    return all_[which].device->load(reader);
  }
  void reset() {
    for (const auto& [device, domain] : all_) {
      const mem::DomainGuard guard(domain);
      device->reset(core::ResetKind::warm);
    }
  }
  Interrupts& interrupts() { return *interrupts_; }
  std::string id(std::size_t i) const { return std::string(all_[i].device->state_id()); }

 private:
  Log log_;
  std::unique_ptr<host::EventLoop> loop_ = host::EventLoop::create().value();
  VmClock clock_{*loop_};
  mem::LockDomain chipset_;
  std::unique_ptr<core::Clock> chipset_clock_ = clock_.for_domain(&chipset_), cpu_clock_ = clock_.for_domain(nullptr);
  mem::AddressSpace memory_{"memory"}, io_{"io", 0x10000};
  cpu::CpuModel model_;
  NoPins pins_;
  NoWire irq0_;
  std::unique_ptr<accel::KvmAccel> accel_;
  std::unique_ptr<Interrupts> interrupts_;
  std::unique_ptr<accel::Vcpu> vcpu_;
  std::vector<Interrupts::Entry> all_;
};

class KvmInterruptsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto opened = accel::kvm::System::open();
    if (!opened) GTEST_SKIP() << "no usable KVM here: " << opened.error().text();
    system_ = std::move(*opened);
    system_->use_kernel_apic(true);
  }
  template <state::Declared T>
  static std::string shown(const std::vector<std::uint8_t>& bytes) {
    T record;
    state::StateReader reader(bytes);
    EXPECT_TRUE(reader.record(record));
    return text_of(record);
  }
  static void expect_equal(Controllers& who, const std::vector<std::vector<std::uint8_t>>& a,
                           const std::vector<std::vector<std::uint8_t>>& b) {
    ASSERT_EQ(a.size(), b.size());
    for (std::size_t i = 0; i < a.size(); ++i) {
      if (a[i] == b[i]) continue;
      const std::string id = who.id(i);
      const auto text = [&](const std::vector<std::uint8_t>& bytes) {
        return id == "lapic0"   ? shown<LocalApicState>(bytes)
               : id == "ioapic" ? shown<IoapicState>(bytes)
               : id == "pic"    ? shown<PicPairState>(bytes)
                                : shown<PitState>(bytes);
      };
      EXPECT_EQ(text(a[i]), text(b[i])) << id;
    }
  }
  /// Records in which each controller has something to tell. The machine stands at time 0.
  static std::vector<std::vector<std::uint8_t>> busy_records() {
    LocalApicState lapic = busy_lapic();
    lapic.timer_start = 0;
    lapic.lvt[0] |= 1 << 16;  // else it would expire and request while the test looks on
    lapic.initial_count = 0, lapic.first_count = 0, lapic.timer_expiry = 0;
    lapic.lint = {true, false};  // INT of the 8259s
    IoapicState ioapic;
    ioapic.id = 2;
    for (auto& entry : ioapic.redirection) entry = 0x10000;
    ioapic.redirection[9] = 0xC031;  // level, in service
    ioapic.pins = 1u << 9;
    PicPairState pics = busy_pics();
    pics.slave.poll = false;
    PitState pit;
    pit.counters[0] = {
        .mode = 2, .loaded = true, .count = 11932, .progress = 500, .latched_count = {}, .latched_status = {}};
    pit.counters[2] = {.mode = 3,
                       .gate = false,
                       .loaded = true,
                       .count = 1000,
                       .progress = 20,
                       .latched_count = {},
                       .latched_status = {}};
    return {bytes_of(lapic), bytes_of(ioapic), bytes_of(pics), bytes_of(pit)};
  }
  std::unique_ptr<accel::kvm::System> system_;
};

TEST_F(KvmInterruptsTest, AfterAResetEveryModeHasTheSameState) {
  Controllers own(*system_, std::nullopt);
  own.reset();
  const auto wanted = own.save();
  for (const auto mode : {accel::kvm::IrqchipMode::split, accel::kvm::IrqchipMode::on}) {
    Controllers kvm(*system_, mode);
    expect_equal(kvm, kvm.save(), wanted);
    kvm.load(busy_records());
    kvm.reset();
    // Wires keep their levels.
    auto now = kvm.save();
    EXPECT_EQ(now[0], wanted[0]);
    EXPECT_EQ(now[3], wanted[3]);
  }
}

TEST_F(KvmInterruptsTest, WhatOneModeSavesAnotherLoads) {
  const auto records = busy_records();
  for (const auto mode : {accel::kvm::IrqchipMode::on, accel::kvm::IrqchipMode::split}) {
    Controllers kvm(*system_, mode);
    kvm.load(records);
    const auto saved = kvm.save();
    expect_equal(kvm, saved, records);
    Controllers own(*system_, std::nullopt);
    own.load(saved);
    const auto from_own = own.save();
    expect_equal(own, from_own, records);
    Controllers other(
        *system_, mode == accel::kvm::IrqchipMode::on ? accel::kvm::IrqchipMode::split : accel::kvm::IrqchipMode::on);
    other.load(from_own);
    expect_equal(other, other.save(), records);
  }
}

TEST_F(KvmInterruptsTest, WhatKvmsControllersHaveNoPartForIsRefused) {
  Controllers whole(*system_, accel::kvm::IrqchipMode::on), split(*system_, accel::kvm::IrqchipMode::split);
  const auto expect_refused = [&](std::size_t which, const std::vector<std::uint8_t>& record) {
    const auto refused = whole.load(which, record);
    ASSERT_FALSE(refused) << whole.id(which);
    EXPECT_EQ(refused.error().message.find("kernel_irqchip=on"), 0u) << refused.error().text();
    EXPECT_TRUE(split.load(which, record));
  };
  LocalApicState lapic = devices::local_apic_reset_state(true);
  lapic.spurious = 0x11FF;  // no EOI broadcasts
  expect_refused(0, bytes_of(lapic));
  lapic.spurious = 0x1FF;
  lapic.lvt[static_cast<unsigned>(devices::Lvt::lint0)] = 0x41;
  expect_refused(0, bytes_of(lapic));
  PicPairState pics;
  pics.master.single = true;
  expect_refused(2, bytes_of(pics));
}

// KVM's local APIC may have ended an interrupt of which the CPU's thread has yet to tell husk's I/O APIC.
TEST_F(KvmInterruptsTest, AnEoiThatIsOnItsWayIsNotLost) {
  Controllers kvm(*system_, accel::kvm::IrqchipMode::split);
  LocalApicState lapic = devices::local_apic_reset_state(true);
  lapic.spurious = 0x1FF;
  lapic.isr[0] = std::uint64_t{1} << 0x32;
  IoapicState ioapic;
  for (auto& entry : ioapic.redirection) entry = 0x10000;
  ioapic.redirection[9] = ioapic.redirection[10] = 0xC031;  // level, in service, and no longer at the local APIC
  ioapic.redirection[11] = 0xC032;                          // at work there
  ioapic.pins = 1u << 9;
  auto records = busy_records();
  records[0] = bytes_of(lapic);
  records[1] = bytes_of(ioapic);
  records[2] = bytes_of(PicPairState{});
  kvm.load(records);
  kvm.interrupts().settle();
  const auto saved = kvm.save();
  state::StateReader lapic_reader(saved[0]), ioapic_reader(saved[1]);
  ASSERT_TRUE(lapic_reader.record(lapic));
  ASSERT_TRUE(ioapic_reader.record(ioapic));
  EXPECT_EQ(lapic.irr[0], std::uint64_t{1} << 0x31) << "the wire that is still high requests again";
  EXPECT_EQ(ioapic.redirection[9], 0xC031u);
  EXPECT_EQ(ioapic.redirection[10], 0x8031u);
  EXPECT_EQ(ioapic.redirection[11], 0xC032u);
}

TEST_F(KvmInterruptsTest, AMessageOfADeviceReachesKvmsLocalApic) {
  Controllers kvm(*system_, accel::kvm::IrqchipMode::split);
  LocalApicState lapic = devices::local_apic_reset_state(true);
  lapic.spurious = 0x1FF;
  auto records = busy_records();
  records[0] = bytes_of(lapic);
  records[2] = bytes_of(PicPairState{});
  kvm.load(records);
  kvm.interrupts().messages().send(0, {0xFEE0'0000, 0x4055});
  const auto saved = kvm.save()[0];
  state::StateReader again(saved);
  LocalApicState now;
  ASSERT_TRUE(again.record(now));
  EXPECT_EQ(now.irr[1], std::uint64_t{1} << (0x55 - 64));
}

TEST_F(KvmInterruptsTest, AnIsaWireReachesBothOfKvmsControllers) {
  Controllers kvm(*system_, accel::kvm::IrqchipMode::on);
  kvm.interrupts().isa().set_pin(5, true);
  const auto saved = kvm.save();
  state::StateReader ioapic_reader(saved[1]), pic_reader(saved[2]);
  IoapicState ioapic;
  PicPairState pics;
  ASSERT_TRUE(ioapic_reader.record(ioapic));
  ASSERT_TRUE(pic_reader.record(pics));
  EXPECT_EQ(ioapic.pins, 1u << 5);
  EXPECT_EQ(pics.master.pins, 1u << 5);
  EXPECT_EQ(pics.master.irr, 1u << 5);
  kvm.interrupts().isa().set_pin(0, true);
  const auto timer = kvm.save();
  state::StateReader timer_reader(timer[1]);
  ASSERT_TRUE(timer_reader.record(ioapic));
  EXPECT_EQ(ioapic.pins, (1u << 5) | (1u << 2)) << "ISA interrupt 0 is wired to pin 2";
}

}  // namespace
}  // namespace husk::machine

#endif
