// husk: a software CPU over memory, tables and descriptors that a test lays out
#pragma once

#include <gtest/gtest.h>

#include <initializer_list>
#include <optional>
#include <vector>

#include "base/check.h"
#include "cpu/interp/core.h"
#include "testing/manual_clock.h"

namespace husk::cpu::interp {

/// An interrupt controller with one vector at most, for tests.
class FakeInterrupts final : public core::CpuInterrupts {
 public:
  bool pending() override { return vector.has_value(); }
  std::optional<std::uint8_t> acknowledge() override { return std::exchange(vector, std::nullopt); }
  std::uint8_t task_priority() override { return priority; }
  void set_task_priority(std::uint8_t value) override { priority = value; }
  std::uint64_t apic_base() override { return base; }
  bool set_apic_base(std::uint64_t value) override {
    base = value;
    return true;
  }
  std::optional<std::uint64_t> read_msr(std::uint32_t index) override {
    return index == 0x6E0 ? std::optional(deadline) : std::nullopt;
  }
  bool write_msr(std::uint32_t index, std::uint64_t value) override {
    if (index == 0x6E0) deadline = value;
    return index == 0x6E0;
  }
  void cpu_init() override {}

  std::optional<std::uint8_t> vector;
  std::uint8_t priority = 0;
  std::uint64_t base = 0xFEE00900;
  std::uint64_t deadline = 0;
};

/// Attribute words as in Segment::attributes.
enum Attributes : std::uint16_t {
  kCode16 = 0x009A,
  kCode32 = 0xC09A,
  kCode64 = 0xA09A,
  kData16 = 0x0092,
  kData32 = 0xC092,
  kTss32 = 0x0089,
  kTss16 = 0x0081,
  kLdtType = 0x0082,
  kDpl1 = 0x20,
  kDpl2 = 0x40,
  kDpl3 = 0x60,
};

/// A descriptor from base, 20-bit limit field and attributes.
constexpr std::uint64_t make_descriptor(std::uint64_t base, std::uint32_t limit, unsigned attributes) {
  return (limit & 0xFFFFu) | ((base & 0xFFFFFF) << 16) | (std::uint64_t{attributes & 0xFFu} << 40) |
         (std::uint64_t{(limit >> 16) & 0xFu} << 48) | (std::uint64_t{(attributes >> 12) & 0xFu} << 52) |
         (((base >> 24) & 0xFF) << 56);
}
/// Low half of a gate; `flags` is P, DPL and type: 8Eh is an interrupt gate of ring 0.
constexpr std::uint64_t make_gate(std::uint16_t selector, std::uint64_t offset, unsigned flags, unsigned low_byte = 0) {
  return (offset & 0xFFFF) | (std::uint64_t{selector} << 16) | (std::uint64_t{low_byte} << 32) |
         (std::uint64_t{flags} << 40) | (((offset >> 16) & 0xFFFF) << 48);
}

class CoreFixture : public ::testing::Test {
 public:
  // Where things lie, guest-physical and identity-mapped.
  static constexpr std::uint64_t kPml4 = 0x1000, kPdpt = 0x2000, kPd = 0x3000, kPt = 0x4000, kGdt = 0x5000,
                                 kIdt = 0x6000, kTss = 0x8000, kTables = 0x10000, kHandlers = 0x20000,
                                 kStack0 = 0x70000, kIst1 = 0x78000, kStack = 0x80000, kUserStack = 0x90000,
                                 kCode = 0x100000, kData = 0x180000;
  // The GDT.
  static constexpr std::uint16_t kCs64 = 0x08, kDs0 = 0x10, kCs32User = 0x18 | 3, kDsUser = 0x20 | 3,
                                 kCs64User = 0x28 | 3, kTr = 0x30, kCs32 = 0x40, kFree = 0x48;

  explicit CoreFixture(std::string_view model_name = "max") : model(*cpu_model(model_name)) {
    ram = *mem::RamRegion::create("ram", 8 << 20);
    mapping = *memory.map_ram(0, ram->size(), *ram, 0, true);
    core = std::make_unique<Core>(CoreDeps{
        .index = 0, .model = model, .memory = memory, .io = io, .interrupts = interrupts, .clock = clock, .log = log});
  }

  template <class T>
  void put(std::uint64_t gpa, T value) {
    store_le<T>(ram->data() + gpa, value);
  }
  template <class T>
  T get(std::uint64_t gpa) {
    return load_le<T>(ram->data() + gpa);
  }
  void set_descriptor(std::uint16_t selector, std::uint64_t value) {
    put<std::uint64_t>(kGdt + (selector & 0xFFF8u), value);
  }
  std::uint64_t descriptor(std::uint16_t selector) { return get<std::uint64_t>(kGdt + (selector & 0xFFF8u)); }

  static Segment flat(std::uint16_t selector, unsigned attributes) {
    return {
        .selector = selector, .attributes = static_cast<std::uint16_t>(attributes | 1), .limit = 0xFFFFFFFF, .base = 0};
  }

  /// 64-bit mode with paging: 8 MiB identity-mapped by 2 MiB pages for everybody, an IDT of interrupt gates to
  /// kHandlers + 16 * vector, a TSS.
  void long_mode(unsigned cpl = 0) {
    put<std::uint64_t>(kPml4, kPdpt | 7);
    put<std::uint64_t>(kPdpt, kPd | 7);
    for (unsigned i = 0; i < 4; ++i) put<std::uint64_t>(kPd + i * 8, (i << 21) | 0x87);
    fill_gdt();
    put<std::uint64_t>(kGdt + kTr, make_descriptor(kTss, 0x67, kTss32 | 2));
    put<std::uint64_t>(kGdt + kTr + 8, 0);
    put<std::uint64_t>(kTss + 4, kStack0);
    put<std::uint64_t>(kTss + 36, kIst1);
    put<std::uint16_t>(kTss + 102, 0x68);
    for (unsigned v = 0; v < 256; ++v) {
      put<std::uint64_t>(kIdt + v * 16, make_gate(kCs64, kHandlers + v * 16, 0x8E));
      put<std::uint64_t>(kIdt + v * 16 + 8, 0);
    }
    CpuState s = reset_state(0);
    s.cr0 = kCr0Pe | kCr0Pg | kCr0Et | kCr0Ne | kCr0Wp;
    s.cr3 = kPml4;
    s.cr4 = kCr4Pae | kCr4Pge | kCr4Osfxsr;
    s.efer = kEferLme | kEferLma | kEferSce | kEferNxe;
    s.gdtr = {.base = kGdt, .limit = 0x7F};
    s.idtr = {.base = kIdt, .limit = 0xFFF};
    s.tr = {.selector = kTr, .attributes = kTss32 | 2, .limit = 0x67, .base = kTss};
    s.ldtr = {.selector = 0, .attributes = 0, .limit = 0, .base = 0};
    const unsigned dpl = cpl << 5;
    s.seg[kCs] = flat(cpl == 3 ? kCs64User : kCs64, kCode64 | dpl);
    s.seg[kSs] = flat(cpl == 3 ? kDsUser : kDs0, kData32 | dpl);
    for (const unsigned seg : {kEs, kDs, kFs, kGs}) s.seg[seg] = flat(cpl == 3 ? kDsUser : kDs0, kData32 | dpl);
    s.rip = kCode;
    s.gpr[kRsp] = cpl == 3 ? kUserStack : kStack;
    core->set_state(s);
  }

  /// 32-bit protected mode, flat, paging off; IDT of 32-bit interrupt gates; a 32-bit TSS.
  void protected_mode(unsigned cpl = 0) {
    fill_gdt();
    put<std::uint64_t>(kGdt + kTr, make_descriptor(kTss, 0x200, kTss32 | 2));
    put<std::uint32_t>(kTss + 4, kStack0);
    put<std::uint16_t>(kTss + 8, kDs0);
    put<std::uint16_t>(kTss + 102, 0x88);
    for (unsigned v = 0; v < 256; ++v) put<std::uint64_t>(kIdt + v * 8, make_gate(kCs32, kHandlers + v * 16, 0x8E));
    CpuState s = reset_state(0);
    s.cr0 = kCr0Pe | kCr0Et | kCr0Ne | kCr0Wp;
    s.gdtr = {.base = kGdt, .limit = 0x7F};
    s.idtr = {.base = kIdt, .limit = 0x7FF};
    s.tr = {.selector = kTr, .attributes = kTss32 | 2, .limit = 0x200, .base = kTss};
    s.ldtr = {.selector = 0, .attributes = 0, .limit = 0, .base = 0};
    const unsigned dpl = cpl << 5;
    s.seg[kCs] = flat(cpl == 3 ? kCs32User : kCs32, kCode32 | dpl);
    for (const unsigned seg : {kSs, kEs, kDs, kFs, kGs}) s.seg[seg] = flat(cpl == 3 ? kDsUser : kDs0, kData32 | dpl);
    s.rip = kCode;
    s.gpr[kRsp] = cpl == 3 ? kUserStack : kStack;
    core->set_state(s);
  }

  /// Real mode at 1000:0000 (linear 10000h), stack at 2000:1000, IVT entry v pointing to 3000:(v*16).
  void real_mode() {
    for (unsigned v = 0; v < 256; ++v) put<std::uint32_t>(v * 4, 0x30000000u | (v * 16));
    CpuState s = reset_state(0);
    s.idtr = {.base = 0, .limit = 0x3FF};
    s.seg[kCs].selector = 0x1000;
    s.seg[kCs].base = 0x10000;
    s.seg[kSs].selector = 0x2000;
    s.seg[kSs].base = 0x20000;
    s.rip = 0;
    s.gpr[kRsp] = 0x1000;
    core->set_state(s);
  }

  /// Changes the state as a test likes, and lets the core take it up.
  template <class Change>
  void with_state(Change&& change) {
    CpuState s = core->s;
    change(s);
    core->set_state(s);
  }

  /// Executes one instruction at CS:RIP after putting `bytes` there. Gives the first event that it caused, if any; the
  /// event has then been delivered (or led to shutdown).
  std::optional<Event> step(std::initializer_list<unsigned> bytes) {
    const std::uint64_t linear = core->code64() ? core->s.rip : core->s.seg[kCs].base + core->s.rip;
    std::uint64_t at = linear;
    for (const unsigned byte : bytes) put<std::uint8_t>(at++, static_cast<std::uint8_t>(byte));
    return step();
  }
  std::optional<Event> step() {
    const std::size_t before = core->past_events().size();
    core->debug.single_step = true;
    exit = core->run(1000);
    const auto after = core->past_events();
    HUSK_CHECK(after.size() < Core::kPastEvents);  // a test of many steps makes a new core
    if (after.size() == before) return std::nullopt;
    return after[before].event;
  }

  testing::ManualClock clock;
  Log log;
  mem::AddressSpace memory{"memory"};
  mem::AddressSpace io{"io", 0x10000};
  std::unique_ptr<mem::RamRegion> ram;
  mem::Mapping mapping;
  FakeInterrupts interrupts;
  CpuModel model;
  std::unique_ptr<Core> core;
  RunExit exit = RunExit::quantum;

 private:
  void fill_gdt() {
    set_descriptor(0, 0);
    set_descriptor(kCs64, make_descriptor(0, 0xFFFFF, kCode64));
    set_descriptor(kDs0, make_descriptor(0, 0xFFFFF, kData32));
    set_descriptor(kCs32User, make_descriptor(0, 0xFFFFF, kCode32 | kDpl3));
    set_descriptor(kDsUser, make_descriptor(0, 0xFFFFF, kData32 | kDpl3));
    set_descriptor(kCs64User, make_descriptor(0, 0xFFFFF, kCode64 | kDpl3));
    set_descriptor(kCs32, make_descriptor(0, 0xFFFFF, kCode32));
  }
};

/// Matches an event with this vector and, for those that have one, this error code.
inline void expect_fault(const std::optional<Event>& event, std::uint8_t vector,
                         std::optional<std::uint32_t> error = std::nullopt) {
  ASSERT_TRUE(event.has_value()) << "no exception, wanted vector " << int{vector};
  EXPECT_EQ(event->vector, vector);
  EXPECT_EQ(event->has_error, error.has_value());
  if (error) {
    EXPECT_EQ(event->error, *error);
  }
}

}  // namespace husk::cpu::interp
