// husk: tests of the accelerator on KVM: conversions anywhere, tiny guests where /dev/kvm opens
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <initializer_list>
#include <mutex>
#include <thread>

#include "accel/kvm/kvm_accel.h"
#include "accel/kvm/registers.h"
#include "cpu/state_record.h"
#include "host/event_fd.h"
#include "testing/manual_clock.h"

namespace husk::accel {
namespace {

using kvm::System;

// ---- without KVM ----

template <class T>
bool same_bytes(const T& a, const T& b) {
  return std::memcmp(&a, &b, sizeof(T)) == 0;
}

/// A state in which no two fields are alike.
cpu::CpuState busy_state() {
  cpu::CpuState s = cpu::reset_state(0);
  for (unsigned i = 0; i < 16; ++i) s.gpr[i] = 0x1111'0000'0000'0000u + i;
  s.rip = 0x1234;
  s.rflags = cpu::kReservedOne | cpu::kCF | cpu::kID;
  s.cr0 = cpu::kCr0Pe | cpu::kCr0Et | cpu::kCr0Ne | cpu::kCr0Wp | cpu::kCr0Pg;
  s.cr2 = 0x7000'1000;
  s.cr3 = 0x2000;
  s.cr4 = cpu::kCr4Pae | cpu::kCr4Osfxsr | cpu::kCr4Osxmmexcpt;
  s.efer = cpu::kEferLme | cpu::kEferLma | cpu::kEferSce;
  s.seg[cpu::kCs] = {.selector = 0x10, .attributes = 0xA09B, .limit = 0xFFFFFFFF, .base = 0};
  for (const unsigned data : {cpu::kSs, cpu::kDs, cpu::kEs, cpu::kFs, cpu::kGs})
    s.seg[data] = {.selector = 0x18, .attributes = 0xC093, .limit = 0xFFFFFFFF, .base = 0};
  s.seg[cpu::kFs].base = 0x0000'7FFF'1234'5000;
  s.seg[cpu::kGs].base = 0xFFFF'8000'0000'0000;
  s.tr = {.selector = 0x28, .attributes = 0x8B, .limit = 0x67, .base = 0x5000};
  s.ldtr = {.selector = 0x30, .attributes = 0x82, .limit = 0x17, .base = 0x6000};
  s.gdtr = {.base = 0x3000, .limit = 0x7F};
  s.idtr = {.base = 0x4000, .limit = 0xFFF};
  s.dr = {0x10, 0x20, 0x30, 0x40};
  s.dr6 = 0xFFFF0FF1;
  s.dr7 = 0x402;
  s.msr.star = 0x0023'0010'0000'0000;
  s.msr.lstar = 0xFFFF'FFFF'8100'0000;
  s.msr.sfmask = 0x47700;
  s.msr.kernel_gs_base = 0x1000;
  s.msr.sysenter_cs = 0x10;
  s.msr.sysenter_esp = 0x8000;
  s.msr.sysenter_eip = 0x9000;
  s.msr.mtrr_default_type = 0xC06;
  s.msr.mtrr_fixed[3] = 0x0505'0505'0505'0505;
  s.msr.mtrr_variable[2] = 0x8000'0006;
  s.msr.mtrr_variable[3] = 0xFF'8000'0800;
  s.x87.control = 0x27F;
  s.x87.status = 0x3 << 11;  // TOP = 3
  s.x87.tag = 0xFF3F;        // physical register 3 holds a value
  s.x87.registers[3] = {0xC000'0000'0000'0000, 0x4000};
  s.x87.opcode = 0x123;
  s.x87.ip = 0x11223344;
  s.x87.dp = 0x55667788;
  s.mxcsr = 0x1FA0;
  for (unsigned i = 0; i < 16; ++i)
    for (unsigned b = 0; b < 16; ++b) s.vector[i].bytes[b] = static_cast<std::uint8_t>(i * 16 + b);
  return s;
}

/// Every part of `a` that KVM holds is in `b` too.
void expect_same(const cpu::CpuState& a, const cpu::CpuState& b, const cpu::CpuModel& model) {
  EXPECT_TRUE(same_bytes(kvm::to_regs(a), kvm::to_regs(b)));
  EXPECT_TRUE(same_bytes(kvm::to_sregs(a), kvm::to_sregs(b)));
  EXPECT_TRUE(same_bytes(kvm::to_debugregs(a), kvm::to_debugregs(b)));
  const kvm::XsaveLayout layout{.avx = 576, .pkru = 2688};
  EXPECT_TRUE(same_bytes(kvm::to_xsave(a, layout), kvm::to_xsave(b, layout)));
  const kvm::MsrTable ma = kvm::to_msrs(a, model), mb = kvm::to_msrs(b, model);
  ASSERT_EQ(ma.count, mb.count);
  for (std::uint32_t i = 0; i < ma.count; ++i)
    EXPECT_EQ(ma.entries[i].data, mb.entries[i].data)
        << kvm::msr_name(ma.entries[i].index) << std::hex << " " << ma.entries[i].index;
  EXPECT_EQ(a.xcr0, b.xcr0);
  EXPECT_EQ(a.msr.tsc_offset, b.msr.tsc_offset);
  EXPECT_EQ(a.activity, b.activity);
  EXPECT_EQ(a.interrupt_shadow, b.interrupt_shadow);
  EXPECT_EQ(a.nmi_blocked, b.nmi_blocked);
  EXPECT_EQ(a.nmi_pending, b.nmi_pending);
}

TEST(KvmRegisters, EveryConversionComesBackAsItWas) {
  cpu::CpuState from = busy_state(), to;
  from.xcr0 = 0x207;
  from.pkru = 0x5555'5554;
  for (unsigned i = 0; i < 16; ++i) from.vector[i].bytes[31] = static_cast<std::uint8_t>(0x80 + i);
  const kvm::XsaveLayout layout{.avx = 576, .pkru = 2688};
  const cpu::CpuModel model = cpu::cpu_model("max").value();
  to.xcr0 = from.xcr0;
  kvm::take_regs(to, kvm::to_regs(from));
  kvm::take_sregs(to, kvm::to_sregs(from));
  kvm::take_debugregs(to, kvm::to_debugregs(from));
  kvm::take_xsave(to, kvm::to_xsave(from, layout), layout);
  const kvm::MsrTable msrs = kvm::to_msrs(from, model);
  kvm::take_msrs(to, std::span(msrs.entries).first(msrs.count));
  expect_same(from, to, model);
  EXPECT_EQ(to.vector, from.vector);
  EXPECT_EQ(to.pkru, from.pkru);
  EXPECT_EQ(to.x87.tag, from.x87.tag);
  EXPECT_EQ(to.x87.registers, from.x87.registers);
  for (unsigned i = 0; i < 6; ++i) EXPECT_EQ(to.seg[i], from.seg[i]);
  EXPECT_EQ(to.tr, from.tr);
  EXPECT_EQ(to.ldtr, from.ldtr);
}

// SDM vol. 1, table 10-2 and 13.4.
TEST(KvmRegisters, TheXsaveAreaIsInTheStandardFormat) {
  const auto area = kvm::to_xsave(busy_state(), {.avx = 0, .pkru = 0});
  EXPECT_EQ(load_le<std::uint16_t>(area.bytes), 0x27F) << "FCW";
  EXPECT_EQ(load_le<std::uint16_t>(area.bytes + 2), 0x1800) << "FSW";
  EXPECT_EQ(area.bytes[4], 1u << 3) << "abridged FTW: by physical register";
  EXPECT_EQ(load_le<std::uint64_t>(area.bytes + 32), 0xC000'0000'0000'0000u) << "ST(0) is physical register 3";
  EXPECT_EQ(load_le<std::uint32_t>(area.bytes + 24), 0x1FA0u) << "MXCSR";
  EXPECT_EQ(area.bytes[160 + 16 * 5 + 2], 0x52) << "XMM5";
  EXPECT_EQ(load_le<std::uint64_t>(area.bytes + 512), 3u) << "XSTATE_BV: x87 and SSE";
}

TEST(KvmRegisters, AComponentThatIsNotMarkedIsInItsInitialState) {
  kvm::XsaveArea area;
  std::memset(area.bytes, 0xEE, sizeof area.bytes);
  store_le<std::uint64_t>(area.bytes + 512, 0);
  cpu::CpuState state = busy_state();
  kvm::take_xsave(state, area, {.avx = 576, .pkru = 0});
  EXPECT_EQ(state.x87.control, 0x37F);
  EXPECT_EQ(state.x87.tag, 0xFFFF);
  EXPECT_EQ(state.vector, (std::array<cpu::VectorRegister, 32>{}));
}

TEST(KvmSystem, WhatIsMissingIsToldWithANextStep) {
  const auto absent = System::open("/nonexistent/kvm");
  ASSERT_FALSE(absent);
  EXPECT_NE(absent.error().message.find("cannot open /nonexistent/kvm"), std::string::npos);
  EXPECT_NE(absent.error().next_step.find("modprobe"), std::string::npos);
  const auto other = System::open("/dev/null");
  ASSERT_FALSE(other);
  EXPECT_NE(other.error().message.find("API version"), std::string::npos);
  EXPECT_FALSE(other.error().next_step.empty());
}

// ---- with KVM ----

/// An interrupt controller that a test drives by hand.
class HandInterrupts final : public core::CpuInterrupts {
 public:
  bool pending() override { return vector.load() >= 0; }
  std::optional<std::uint8_t> acknowledge() override {
    const int taken = vector.exchange(-1);
    if (taken < 0) return std::nullopt;
    return static_cast<std::uint8_t>(taken);
  }
  std::uint8_t task_priority() override { return priority; }
  void set_task_priority(std::uint8_t now) override { priority = now; }
  std::uint64_t apic_base() override { return base; }
  bool set_apic_base(std::uint64_t value) override {
    base = value;
    return true;
  }
  std::optional<std::uint64_t> read_msr(std::uint32_t index) override { return 0xABC00000 + index; }
  bool write_msr(std::uint32_t index, std::uint64_t value) override {
    msr_written = {index, value};
    return true;
  }
  void cpu_init() override { ++inits; }

  std::atomic<int> vector{-1};
  std::atomic<std::uint8_t> priority{0};
  std::uint64_t base = 0xFEE00900;
  std::pair<std::uint32_t, std::uint64_t> msr_written;
  int inits = 0;
};

/// Remembers accesses; reads count up.
class Recorder final : public mem::IoHandler {
 public:
  struct Seen {
    bool write;
    std::uint64_t offset;
    unsigned size;
    std::uint64_t value;
    bool operator==(const Seen&) const = default;
  };
  std::uint64_t read(const mem::Access& access) override {
    seen.push_back({false, access.offset, access.size, ++next});
    who = access.who;
    return next;
  }
  void write(const mem::Access& access, std::uint64_t value) override {
    seen.push_back({true, access.offset, access.size, value});
    who = access.who;
    if (on_write) on_write(value);
  }
  std::vector<Seen> seen;
  mem::Requester who;
  std::uint64_t next = 0;
  std::function<void(std::uint64_t)> on_write;
};

/// Lets the guest's thread run.
void pause() { std::this_thread::sleep_for(std::chrono::microseconds(100)); }

/// 1 MiB of RAM, a recorder at ports 80h..8Fh and at 1 MiB, a CPU in real mode at 0:1000h.
class KvmGuest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto opened = System::open();
    if (!opened) GTEST_SKIP() << "no usable KVM here: " << opened.error().text();
    system_ = std::move(*opened);
    model_ = system_->adapt(cpu::cpu_model("max").value(), log_).value();
    ram_ = mem::RamRegion::create("ram", 1 << 20).value();
    mappings_.push_back(memory_.map_ram(0, 1 << 20, *ram_, 0, true).value());
    mappings_.push_back(memory_.map(1 << 20, 0x1000, mmio_, {}).value());
    mappings_.push_back(io_.map(0x80, 0x10, ports_, {}).value());
    accel_ = KvmAccel::create({*system_, memory_, io_, clock_, log_}).value();
    ASSERT_TRUE(accel_->add_ram(*ram_));
    vcpu_ = accel_->create_vcpu({0, model_, interrupts_}).value();
  }

  /// A guest that does not come to its end is stopped, so that its test fails and does not hang.
  Exit run(Vcpu& vcpu) {
    std::mutex mutex;
    std::condition_variable_any changed;
    bool over = false;
    std::jthread watchdog([&] {
      std::unique_lock lock(mutex);
      if (!changed.wait_for(lock, std::chrono::seconds(20), [&] { return over; })) vcpu.kick();
    });
    const Exit exit = vcpu.run();
    {
      const std::lock_guard lock(mutex);
      over = true;
    }
    changed.notify_all();
    return exit;
  }
  Exit run() { return run(*vcpu_); }

  cpu::CpuState at_start(std::initializer_list<std::uint8_t> code) {
    std::copy(code.begin(), code.end(), ram_->data() + 0x1000);
    cpu::CpuState state = cpu::reset_state(0);
    for (auto& segment : state.seg) segment.selector = 0, segment.base = 0;
    state.rip = 0x1000;
    state.gpr[cpu::kRsp] = 0x8000;
    return state;
  }
  void load(std::initializer_list<std::uint8_t> code) { ASSERT_TRUE(vcpu_->set_state(at_start(code))); }
  void handler(unsigned vector, std::uint16_t offset) {
    store_le<std::uint16_t>(ram_->data() + vector * 4, offset);
    store_le<std::uint16_t>(ram_->data() + vector * 4 + 2, 0);
  }

  Log log_;
  testing::ManualClock clock_;
  std::unique_ptr<System> system_;
  cpu::CpuModel model_;
  mem::AddressSpace memory_{"memory"}, io_{"io", 0x10000};
  std::unique_ptr<mem::RamRegion> ram_;
  Recorder mmio_, ports_;
  std::vector<mem::Mapping> mappings_;
  HandInterrupts interrupts_;
  std::unique_ptr<KvmAccel> accel_;
  std::unique_ptr<Vcpu> vcpu_;
};

TEST_F(KvmGuest, PortAccessesReachTheHandlerWithTheirSize) {
  // mov al, 5; out 80h, al; mov ax, 1234h; out 81h, ax; in eax, 84h; mov [500h], eax; cli; hlt
  load({0xB0, 0x05, 0xE6, 0x80, 0xB8, 0x34, 0x12, 0xE7, 0x81, 0x66, 0xE5, 0x84, 0x66, 0xA3, 0x00, 0x05, 0xFA, 0xF4});
  ports_.next = 0x1122'3343;
  EXPECT_EQ(run().reason, Exit::Reason::stuck) << "halted with IF clear";
  EXPECT_EQ(ports_.seen,
            (std::vector<Recorder::Seen>{{true, 0, 1, 5}, {true, 1, 2, 0x1234}, {false, 4, 4, 0x11223344}}));
  EXPECT_EQ(ports_.who.kind, mem::Requester::Kind::cpu);
  EXPECT_EQ(load_le<std::uint32_t>(ram_->data() + 0x500), 0x11223344u);
}

TEST_F(KvmGuest, StringIoComesElementByElementInOrder) {
  // mov si, 600h; mov cx, 5; mov dx, 80h; cld; rep outsb; mov di, 700h; mov cx, 3; rep insw; hlt
  load({0xBE, 0x00, 0x06, 0xB9, 0x05, 0x00, 0xBA, 0x80, 0x00, 0xFC, 0xF3,
        0x6E, 0xBF, 0x00, 0x07, 0xB9, 0x03, 0x00, 0xF3, 0x6D, 0xF4});
  std::memcpy(ram_->data() + 0x600, "husky", 5);
  EXPECT_EQ(run().reason, Exit::Reason::stuck);
  std::string out;
  for (const auto& seen : ports_.seen)
    if (seen.write) out += static_cast<char>(seen.value);
  EXPECT_EQ(out, "husky");
  ASSERT_EQ(ports_.seen.size(), 8u);
  EXPECT_EQ(load_le<std::uint16_t>(ram_->data() + 0x700), 1);
  EXPECT_EQ(load_le<std::uint16_t>(ram_->data() + 0x704), 3);
}

TEST_F(KvmGuest, MemoryAccessesReachTheHandlerAtTheirOffset) {
  // mov ax, FFFFh; mov ds, ax (DS base FFFF0h): [10h] is 1 MiB; mov dword [10h], 11223344h; mov al, [15h]; out 80h, al;
  // hlt
  load({0xB8, 0xFF, 0xFF, 0x8E, 0xD8, 0x66, 0xC7, 0x06, 0x10, 0x00,
        0x44, 0x33, 0x22, 0x11, 0xA0, 0x15, 0x00, 0xE6, 0x80, 0xF4});
  mmio_.next = 0x6A;
  EXPECT_EQ(run().reason, Exit::Reason::stuck);
  EXPECT_EQ(mmio_.seen, (std::vector<Recorder::Seen>{{true, 0, 4, 0x11223344}, {false, 5, 1, 0x6B}}));
  EXPECT_EQ(ports_.seen, (std::vector<Recorder::Seen>{{true, 0, 1, 0x6B}}));
}

TEST_F(KvmGuest, ADoorbellRingsWhereItsHandlerIsAndCallsNobody) {
  if (!accel_->rings_doorbells()) GTEST_SKIP() << "this KVM has no eventfds for writes of any length";
  const host::EventFd bell = host::EventFd::create().value(), same = host::EventFd::create().value();
  accel_->set_doorbells({{&mmio_, 8, bell.fd()}, {&mmio_, 0x2000, same.fd()}});
  // mov ax, FFFFh; mov ds, ax; mov word [18h], 7 (1 MiB + 8); mov dword [14h], 11223344h; hlt
  const std::initializer_list<std::uint8_t> writes = {0xB8, 0xFF, 0xFF, 0x8E, 0xD8, 0xC7, 0x06, 0x18, 0x00, 0x07, 0x00,
                                                      0x66, 0xC7, 0x06, 0x14, 0x00, 0x44, 0x33, 0x22, 0x11, 0xF4};
  const auto run_writes = [&] {
    mmio_.seen.clear();
    EXPECT_TRUE(vcpu_->set_state(at_start(writes)));
    EXPECT_EQ(run().reason, Exit::Reason::stuck);
  };
  run_writes();
  EXPECT_EQ(bell.take(), 1u);
  EXPECT_EQ(mmio_.seen, (std::vector<Recorder::Seen>{{true, 4, 4, 0x11223344}}));
  // The handler moves, as a BAR does, and its doorbell with it.
  mappings_[1] = memory_.map((1 << 20) + 4, 0x1000, mmio_, {}).value();
  run_writes();
  EXPECT_EQ(bell.take(), 0u);
  EXPECT_EQ(mmio_.seen, (std::vector<Recorder::Seen>{{true, 4, 2, 7}, {true, 0, 4, 0x11223344}}));
  mappings_[1] = memory_.map(1 << 20, 0x1000, mmio_, {}).value();
  run_writes();
  EXPECT_EQ(bell.take(), 1u);
  // Another device in front of it hides it.
  {
    const auto front = memory_.map((1 << 20) + 8, 4, ports_, {.priority = 1, .name = "front"}).value();
    run_writes();
    EXPECT_EQ(bell.take(), 0u);
    EXPECT_EQ(ports_.seen, (std::vector<Recorder::Seen>{{true, 0, 2, 7}}));
  }
  run_writes();
  EXPECT_EQ(bell.take(), 1u);
  accel_->set_doorbells({});
  run_writes();
  EXPECT_EQ(bell.take(), 0u);
  EXPECT_EQ(mmio_.seen.size(), 2u);
  EXPECT_EQ(same.take(), 0u) << "a place that its handler's mapping does not have";
}

TEST_F(KvmGuest, AnInterruptWakesHltAndIsTakenOnce) {
  // sti; hlt; mov al, 1; out 80h, al; cli; hlt        handler: mov al, 2; out 80h, al; iret
  load({0xFB, 0xF4, 0xB0, 0x01, 0xE6, 0x80, 0xFA, 0xF4});
  const std::uint8_t code[] = {0xB0, 0x02, 0xE6, 0x80, 0xCF};
  std::memcpy(ram_->data() + 0x1100, code, sizeof code);
  handler(0x41, 0x1100);
  std::thread device([&] {
    interrupts_.vector = 0x41;
    vcpu_->pins().interrupt_changed();
  });
  EXPECT_EQ(run().reason, Exit::Reason::stuck);
  device.join();
  EXPECT_EQ(ports_.seen, (std::vector<Recorder::Seen>{{true, 0, 1, 2}, {true, 0, 1, 1}}));
}

TEST_F(KvmGuest, AnInterruptWaitsForTheInterruptWindow) {
  // cli; out 80h, al; out 81h, al; sti; wait: cmp byte [500h], 0; je wait; out 82h, al; cli; hlt
  load({0xFA, 0xE6, 0x80, 0xE6, 0x81, 0xFB, 0x80, 0x3E, 0x00, 0x05, 0x00, 0x74, 0xF9, 0xE6, 0x82, 0xFA, 0xF4});
  // handler: out 83h, al; mov byte [500h], 1; iret
  const std::uint8_t code[] = {0xE6, 0x83, 0xC6, 0x06, 0x00, 0x05, 0x01, 0xCF};
  std::memcpy(ram_->data() + 0x1100, code, sizeof code);
  handler(0x55, 0x1100);
  interrupts_.vector = 0x55;
  EXPECT_EQ(run().reason, Exit::Reason::stuck);
  std::string order;
  for (const auto& seen : ports_.seen) order += static_cast<char>('0' + seen.offset);
  EXPECT_EQ(order, "0132");
}

TEST_F(KvmGuest, AKickEndsALoopAndTheStateIsBetweenInstructions) {
  load({0x40, 0xE6, 0x80, 0xEB, 0xFB});  // again: inc ax; out 80h, al; jmp again
  std::atomic<unsigned> writes{0};
  ports_.on_write = [&](std::uint64_t) { ++writes; };
  std::thread kicker([&] {
    while (writes < 3) pause();
    vcpu_->kick();
  });
  EXPECT_EQ(run().reason, Exit::Reason::stopped);
  kicker.join();
  const cpu::CpuState state = vcpu_->get_state();
  // A host's interrupt may have come between INC and OUT; then the OUT is still to be done.
  const unsigned counted = state.rip == 0x1001 ? 1 : 0;
  EXPECT_EQ(state.gpr[cpu::kRax] & 0xFF, (ports_.seen.back().value + counted) & 0xFF) << "the OUT is complete";
  // It goes on where it was.
  const unsigned before = writes;
  std::thread again([&] {
    while (writes < before + 3) pause();
    vcpu_->kick();
  });
  EXPECT_EQ(run().reason, Exit::Reason::stopped);
  again.join();
  for (std::size_t i = 1; i < ports_.seen.size(); ++i)
    ASSERT_EQ(ports_.seen[i].value, (ports_.seen[i - 1].value + 1) & 0xFF) << "nothing lost or done twice";
}

TEST_F(KvmGuest, ATripleFaultIsAShutdown) {
  cpu::CpuState state = at_start({0xCD, 0x20});  // int 20h
  state.idtr.limit = 0;
  ASSERT_TRUE(vcpu_->set_state(state));
  const Exit exit = run();
  if (exit.reason == Exit::Reason::stopped) GTEST_SKIP() << "this KVM does not tell of triple faults";
  EXPECT_EQ(exit.reason, Exit::Reason::shutdown);
}

TEST_F(KvmGuest, AnotherCpuStartsByInitAndSipi) {
  HandInterrupts other_interrupts;
  other_interrupts.base = 0xFEE00800;
  auto other = accel_->create_vcpu({1, model_, other_interrupts}).value();
  EXPECT_EQ(other->get_state().activity, cpu::Activity::wait_for_sipi);
  // At 0:2000h, where CS is 200h: mov ax, cs; out 81h, ax; jmp $
  const std::uint8_t code[] = {0x8C, 0xC8, 0xE7, 0x81, 0xEB, 0xFE};
  std::memcpy(ram_->data() + 0x2000, code, sizeof code);
  std::atomic<bool> told{false};
  ports_.on_write = [&](std::uint64_t) { told = true; };
  other->pins().init();
  other->pins().startup(2);
  std::thread stopper([&] {
    while (!told) pause();
    other->kick();
  });
  EXPECT_EQ(run(*other).reason, Exit::Reason::stopped);
  stopper.join();
  EXPECT_EQ(ports_.seen, (std::vector<Recorder::Seen>{{true, 1, 2, 0x200}}));
  EXPECT_EQ(other_interrupts.inits, 1);
  other->pins().startup(3);
  other->kick();
  EXPECT_EQ(run(*other).reason, Exit::Reason::stopped);
  EXPECT_EQ(other->get_state().seg[cpu::kCs].selector, 0x200) << "a second SIPI is ignored";
}

TEST_F(KvmGuest, StateComesBackAsItWasSet) {
  cpu::CpuState state = busy_state();
  if (!model_.has(cpu::Feature::mtrr)) state.msr.mtrr_default_type = 0;
  state.interrupt_shadow = true;
  state.nmi_blocked = true;
  state.msr.tsc_offset = 0x1234'5678'9ABC;
  // What KVM sets by itself in a state that was never in a CPU.
  if (const auto set = vcpu_->set_state(state); !set) FAIL() << set.error().text();
  const cpu::CpuState once = vcpu_->get_state();
  expect_same(state, once, model_);
  ASSERT_TRUE(vcpu_->set_state(once));
  expect_same(once, vcpu_->get_state(), model_);
}

std::vector<std::uint8_t> bytes_of(const cpu::CpuState& state) {
  state::StateWriter writer;
  writer.record(state);
  return {writer.bytes().begin(), writer.bytes().end()};
}

// What one CPU exports, another one of the same machine takes and exports again.
TEST_F(KvmGuest, AnotherCpuExportsTheSameBytes) {
  using Kind = cpu::InjectedEvent::Kind;
  using cpu::Activity;
  const auto other = accel_->create_vcpu({1, model_, interrupts_}).value();
  struct Case {
    const char* what;
    std::function<void(cpu::CpuState&)> change;
  };
  const Case cases[] = {
      {"as it is", [](cpu::CpuState&) {}},
      {"an interrupt under way", [](cpu::CpuState& s) { s.injected = {Kind::interrupt, 0x40, false, 0}; }},
      {"an exception under way", [](cpu::CpuState& s) { s.injected = {Kind::exception, 14, true, 6}; }},
      {"an NMI under way", [](cpu::CpuState& s) { s.injected = {Kind::nmi, 2, false, 0}; }},
      {"an NMI pending behind another", [](cpu::CpuState& s) { s.nmi_pending = s.nmi_blocked = true; }},
      {"an interrupt shadow", [](cpu::CpuState& s) { s.interrupt_shadow = true; }},
      {"halted", [](cpu::CpuState& s) { s.activity = Activity::halted; }},
      {"waiting for SIPI", [](cpu::CpuState& s) { s.activity = Activity::wait_for_sipi; }},
      {"INIT and SIPI have come",
       [](cpu::CpuState& s) {
         s.init_pending = s.sipi_pending = true;
         s.sipi_vector = 0x9A;
       }},
      {"AVX registers live",
       [this](cpu::CpuState& s) {
         if (!model_.has(cpu::Feature::avx)) return;
         s.xcr0 = 7;
         for (unsigned i = 0; i < 16; ++i) s.vector[i].bytes[31] = static_cast<std::uint8_t>(0x80 + i);
       }},
  };
  for (const Case& one : cases) {
    SCOPED_TRACE(one.what);
    cpu::CpuState state = busy_state();
    if (!model_.has(cpu::Feature::mtrr)) state.msr.mtrr_default_type = 0;
    one.change(state);
    if (const auto set = vcpu_->set_state(state); !set) FAIL() << set.error().text();
    const auto exported = vcpu_->export_state();
    ASSERT_TRUE(exported) << exported.error().text();
    EXPECT_EQ(exported->injected, state.injected);
    EXPECT_EQ(exported->activity, state.activity);
    EXPECT_EQ(exported->init_pending, state.init_pending);
    EXPECT_EQ(exported->nmi_pending, state.nmi_pending);
    EXPECT_EQ(exported->vector, state.vector);
    if (const auto set = other->set_state(*exported); !set) FAIL() << set.error().text();
    EXPECT_EQ(bytes_of(other->export_state().value()), bytes_of(*exported));
  }
}

TEST_F(KvmGuest, AnInterruptUnderWayIsTakenWhateverTheFlagSays) {
  handler(0x40, 0x1100);
  cpu::CpuState state = at_start({0xF4});
  ram_->data()[0x1100] = 0xB0, ram_->data()[0x1101] = 0x5A;  // mov al, 5Ah
  ram_->data()[0x1102] = 0xE6, ram_->data()[0x1103] = 0x80;  // out 80h, al
  ram_->data()[0x1104] = 0xF4;
  state.injected = {cpu::InjectedEvent::Kind::interrupt, 0x40, false, 0};
  ASSERT_TRUE(vcpu_->set_state(state));
  EXPECT_EQ(run().reason, Exit::Reason::stuck);
  EXPECT_EQ(ports_.seen, (std::vector<Recorder::Seen>{{true, 0, 1, 0x5A}}));
  EXPECT_EQ(vcpu_->get_state().injected.kind, cpu::InjectedEvent::Kind::none);
}

// SDM vol. 3, 18.3.1.4: as soon as it is taken, DR6 tells its cause.
TEST_F(KvmGuest, ADebugTrapOfAnotherAcceleratorIsTaken) {
  handler(1, 0x1100);
  cpu::CpuState state = at_start({0xF4});
  ram_->data()[0x1100] = 0xE6, ram_->data()[0x1101] = 0x81, ram_->data()[0x1102] = 0xF4;  // out 81h, al; hlt
  state.pending_debug = 1u << 14;
  ASSERT_TRUE(vcpu_->set_state(state));
  EXPECT_EQ(run().reason, Exit::Reason::stuck);
  ASSERT_EQ(ports_.seen.size(), 1u);
  EXPECT_TRUE(vcpu_->get_state().dr6 & (1u << 14));
  state.interrupt_shadow = state.shadow_holds_debug = true;
  const auto refused = vcpu_->set_state(state);
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().message.find("hold back a debug trap"), std::string::npos);
}

TEST_F(KvmGuest, ResetGivesTheStateOfTheManual) {
  ASSERT_TRUE(vcpu_->set_state(busy_state()));
  vcpu_->reset(true);
  const cpu::CpuState state = vcpu_->get_state();
  cpu::CpuState wanted = cpu::reset_state(model_.signature());
  EXPECT_EQ(state.rip, 0xFFF0u);
  EXPECT_EQ(state.seg[cpu::kCs].base, 0xFFFF'0000u);
  EXPECT_EQ(state.gpr, wanted.gpr);
  EXPECT_EQ(state.cr0, wanted.cr0);
  EXPECT_EQ(state.msr.lstar, 0u);
  EXPECT_EQ(state.activity, cpu::Activity::running);
}

TEST_F(KvmGuest, TheDirtyLogTellsWhatTheGuestWrote) {
  // mov byte [3000h], 1; mov byte [5000h], 1; hlt
  load({0xC6, 0x06, 0x00, 0x30, 0x01, 0xC6, 0x06, 0x00, 0x50, 0x01, 0xF4});
  ram_->start_dirty_log();
  EXPECT_EQ(run().reason, Exit::Reason::stuck);
  std::vector<std::uint64_t> pages;
  ram_->take_dirty([&](std::uint64_t page) { pages.push_back(page); });
  EXPECT_TRUE(std::find(pages.begin(), pages.end(), 3) != pages.end());
  EXPECT_TRUE(std::find(pages.begin(), pages.end(), 5) != pages.end());
  EXPECT_TRUE(std::find(pages.begin(), pages.end(), 4) == pages.end());
  pages.clear();
  ram_->take_dirty([&](std::uint64_t page) { pages.push_back(page); });
  EXPECT_TRUE(pages.empty()) << "each write is told once";
  ram_->stop_dirty_log();
}

TEST_F(KvmGuest, AWriteToRomIsDropped) {
  if (!system_->caps().readonly_memory) GTEST_SKIP() << "this KVM has no read-only memory";
  auto rom = mem::RamRegion::create("rom", 0x1000).value();
  rom->data()[0x10] = 0x77;
  mappings_.push_back(memory_.map_ram(0xF0000, 0x1000, *rom, 0, false, 1).value());
  // mov ax, F000h; mov ds, ax; mov byte [10h], 1; mov al, [10h]; out 80h, al; hlt
  load({0xB8, 0x00, 0xF0, 0x8E, 0xD8, 0xC6, 0x06, 0x10, 0x00, 0x01, 0xA0, 0x10, 0x00, 0xE6, 0x80, 0xF4});
  EXPECT_EQ(run().reason, Exit::Reason::stuck);
  EXPECT_EQ(ports_.seen, (std::vector<Recorder::Seen>{{true, 0, 1, 0x77}}));
  mappings_.pop_back();
}

TEST_F(KvmGuest, TheLayoutMayChangeWhileAGuestRuns) {
  load({0x40, 0xA3, 0x00, 0x05, 0xE6, 0x80, 0xEB, 0xF8});  // again: inc ax; mov [500h], ax; out 80h, al; jmp again
  std::atomic<unsigned> writes{0};
  ports_.on_write = [&](std::uint64_t) { ++writes; };
  std::thread mover([&] {
    for (int i = 0; i < 5; ++i) {
      // A page of a device over RAM splits the slot; its end joins the halves again.
      const auto hole = memory_.map(0x40000, 0x1000, mmio_, {.priority = 1, .name = "hole"}).value();
      const unsigned before = writes;
      while (writes < before + 2) pause();
    }
    vcpu_->kick();
  });
  EXPECT_EQ(run().reason, Exit::Reason::stopped);
  mover.join();
  const cpu::CpuState state = vcpu_->get_state();
  const bool counted_only = state.rip == 0x1001;  // between INC and MOV
  EXPECT_EQ(load_le<std::uint16_t>(ram_->data() + 0x500), (state.gpr[cpu::kRax] - counted_only) & 0xFFFF);
}

TEST_F(KvmGuest, X2apicRegistersAreTheInterruptControllers) {
  if (!system_->caps().user_msr) GTEST_SKIP() << "this KVM does not give MSRs to userspace";
  cpu::CpuState state = at_start({
      0x66, 0xB9, 0x02, 0x08, 0x00, 0x00,              // mov ecx, 802h
      0x0F, 0x32, 0x66, 0xE7, 0x84,                    // rdmsr; out 84h, eax
      0x66, 0xB9, 0x08, 0x08, 0x00, 0x00,              // mov ecx, 808h
      0x66, 0xB8, 0x20, 0x00, 0x00, 0x00, 0x66, 0x31,  // mov eax, 20h; xor edx, edx
      0xD2, 0x0F, 0x30, 0xF4,                          // wrmsr; hlt
  });
  ASSERT_TRUE(vcpu_->set_state(state));
  EXPECT_EQ(run().reason, Exit::Reason::stuck);
  EXPECT_EQ(ports_.seen, (std::vector<Recorder::Seen>{{true, 4, 4, 0xABC00802}}));
  EXPECT_EQ(interrupts_.msr_written, (std::pair<std::uint32_t, std::uint64_t>{0x808, 0x20}));
}

TEST_F(KvmGuest, TheDebuggerStopsAtBreakpointsAndSteps) {
  load({0x40, 0x43, 0x41, 0xF4});  // inc ax; inc bx; inc cx; hlt
  cpu::DebugRequest request;
  request.breakpoints = {0x1002};
  ASSERT_TRUE(vcpu_->set_debug(request));
  Exit exit = run();
  if (exit.reason == Exit::Reason::stuck) GTEST_SKIP() << "this KVM has no guest debugging";
  ASSERT_EQ(exit.reason, Exit::Reason::debug);
  EXPECT_EQ(exit.address, 0x1002u);
  EXPECT_EQ(vcpu_->get_state().rip, 0x1002u);
  // On from the breakpoint, which is still set.
  request.single_step = true;
  ASSERT_TRUE(vcpu_->set_debug(request));
  exit = run();
  ASSERT_EQ(exit.reason, Exit::Reason::debug);
  EXPECT_EQ(vcpu_->get_state().rip, 0x1003u);
  EXPECT_EQ(vcpu_->get_state().gpr[cpu::kRcx], 1u);
  ASSERT_TRUE(vcpu_->set_debug({}));
  EXPECT_EQ(run().reason, Exit::Reason::stuck);
}

TEST_F(KvmGuest, TheDebuggerStepsOneInstructionAtATime) {
  load({0x40, 0x43, 0x41, 0xF4});  // inc ax; inc bx; inc cx; hlt
  cpu::DebugRequest request;
  request.single_step = true;
  ASSERT_TRUE(vcpu_->set_debug(request));
  for (std::uint64_t rip = 0x1001; rip <= 0x1003; ++rip) {
    const Exit exit = run();
    if (exit.reason == Exit::Reason::stuck) GTEST_SKIP() << "this KVM has no guest debugging";
    ASSERT_EQ(exit.reason, Exit::Reason::debug);
    EXPECT_EQ(exit.address, rip);
    EXPECT_EQ(vcpu_->get_state().rip, rip);
  }
  EXPECT_FALSE(vcpu_->get_state().rflags & cpu::kTF) << "the guest does not see the step";
  ASSERT_TRUE(vcpu_->set_debug({}));
  EXPECT_EQ(run().reason, Exit::Reason::stuck);
}

TEST_F(KvmGuest, AWatchpointTellsItsAddress) {
  load({0x40, 0xA3, 0x00, 0x05, 0x43, 0xF4});  // inc ax; mov [500h], ax; inc bx; hlt
  cpu::DebugRequest request;
  request.watchpoints = {{0x500, 2, false, true}};
  ASSERT_TRUE(vcpu_->set_debug(request));
  const Exit exit = run();
  if (exit.reason == Exit::Reason::stuck) GTEST_SKIP() << "this KVM has no guest debugging";
  ASSERT_EQ(exit.reason, Exit::Reason::debug);
  EXPECT_EQ(exit.address, 0x500u);
  EXPECT_EQ(vcpu_->get_state().rip, 0x1004u) << "after the write";
}

TEST_F(KvmGuest, MoreBreakpointsThanRegistersAreRefused) {
  cpu::DebugRequest request;
  request.breakpoints = {1, 2, 3, 4, 5};
  const auto set = vcpu_->set_debug(request);
  ASSERT_FALSE(set);
  EXPECT_NE(set.error().message.find("5 breakpoints"), std::string::npos);
}

TEST_F(KvmGuest, TracesOfWhatKvmDoesNotShowAreRefused) {
  struct Sink : TraceSink {
    void event(unsigned, const PastEvent&) override {}
    void io(unsigned, bool, std::uint16_t port, unsigned, std::uint64_t value) override { last = {port, value}; }
    void mmio(unsigned, bool, mem::Gpa, unsigned, std::uint64_t) override {}
    void msr(unsigned, bool, std::uint32_t, std::uint64_t, bool) override {}
    void exec(unsigned, const cpu::CpuState&) override {}
    std::pair<std::uint16_t, std::uint64_t> last;
  } sink;
  EXPECT_FALSE(vcpu_->set_trace(&sink, TraceSink::kExceptions));
  ASSERT_TRUE(vcpu_->set_trace(&sink, TraceSink::kIo));
  load({0xB0, 0x05, 0xE6, 0x80, 0xF4});
  EXPECT_EQ(run().reason, Exit::Reason::stuck);
  EXPECT_EQ(sink.last, (std::pair<std::uint16_t, std::uint64_t>{0x80, 5}));
}

TEST_F(KvmGuest, SystemManagementModeIsRefusedByName) {
  cpu::CpuState state = at_start({0xF4});
  state.in_smm = true;
  const auto set = vcpu_->set_state(state);
  ASSERT_FALSE(set);
  EXPECT_NE(set.error().message.find("system management mode"), std::string::npos);
}

TEST_F(KvmGuest, TheTscStandsWhileTheMachineIsStopped) {
  if (!system_->caps().tsc_offset) GTEST_SKIP() << "this KVM does not tell TSC offsets";
  // rdtsc; mov [500h], eax; mov [504h], edx; hlt
  load({0x0F, 0x31, 0x66, 0xA3, 0x00, 0x05, 0x66, 0x89, 0x16, 0x04, 0x05, 0xF4});
  EXPECT_EQ(run().reason, Exit::Reason::stuck);
  const std::uint64_t first = load_le<std::uint64_t>(ram_->data() + 0x500);
  // The clock by hand stands still, so the machine's TSC goes on only while the guest runs.
  const std::uint64_t stopped = vcpu_->get_state().msr.tsc_offset;
  EXPECT_GE(stopped, first);
  cpu::CpuState state = vcpu_->get_state();
  state.rip = 0x1000;
  state.activity = cpu::Activity::running;
  ASSERT_TRUE(vcpu_->set_state(state));
  EXPECT_EQ(run().reason, Exit::Reason::stuck);
  EXPECT_GE(load_le<std::uint64_t>(ram_->data() + 0x500), stopped) << "it never goes back";
}

}  // namespace
}  // namespace husk::accel
