// husk: names for what translated code refers to, and news of it to observers
#include <fmt/format.h>

#include "cpu/jit/engine.h"

namespace husk::cpu::jit {

using interp::Core;

namespace {
constexpr std::string_view kPrivileges[] = {"user", "supervisor", "supervisor_ac"};
constexpr std::string_view kRegisters[] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                           "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
constexpr std::string_view kSegments[] = {"es", "cs", "ss", "ds", "fs", "gs"};
}  // namespace

std::string Engine::code_name(const std::uint8_t* running) const {
  const auto is = [&](const std::uint8_t* stub) { return stub && cache_.running(stub) == running; };
  const std::pair<const std::uint8_t*, std::string_view> singles[] = {
      {stubs_.enter, "enter"},
      {stubs_.exit_spilled, "exit_spilled"},
      {stubs_.exit_host, "exit_host"},
      {stubs_.save_vectors, "save_vectors"},
      {stubs_.load_vectors, "load_vectors"},
      {stubs_.need_vectors, "need_vectors"},
      {stubs_.save_x87, "save_x87"},
      {stubs_.need_x87, "need_x87"},
      {stubs_.slow, "slow"},
      {stubs_.missed, "missed"},
      {stubs_.heated, "heated"},
      {stubs_.heated_inside, "heated_inside"},
      {stubs_.call_spilled, "call_spilled"},
      {stubs_.call_host, "call_host"},
      {stubs_.link_host, "link_host"},
      {stubs_.look_up, "look_up"},
      {stubs_.base_return, "base_return"},
  };
  for (const auto& [stub, name] : singles)
    if (is(stub)) return std::string(name);
  for (unsigned privilege = 0; privilege < Core::kMmuCount; ++privilege) {
    for (const bool write : {false, true}) {
      const std::string_view access = write ? "store" : "load";
      if (is(stubs_.slot_miss[privilege][write])) return fmt::format("slot_miss.{}.{}", kPrivileges[privilege], access);
      if (is(stubs_.tlb_miss[privilege][write])) return fmt::format("tlb_miss.{}.{}", kPrivileges[privilege], access);
    }
    for (const bool write : {false, true})
      if (is(stubs_.retry[privilege][write]))
        return fmt::format("retry.{}.{}", kPrivileges[privilege], write ? "store" : "load");
    for (const bool fill : {false, true})
      for (unsigned shift = 0; shift < 4; ++shift)
        if (is(stubs_.string[privilege][fill][shift]))
          return fmt::format("rep_{}{}.{}", fill ? "stos" : "movs", 8u << shift, kPrivileges[privilege]);
    if (is(stubs_.indirect[privilege])) return fmt::format("indirect.{}", kPrivileges[privilege]);
  }
  return {};
}

std::string Engine::field_name(std::int64_t distance) const {
  const Context& c = context_;
  const auto at = [&](const auto& member) { return distance == gs(member); };
  const auto inside = [&](const auto& array) {
    return distance >= gs(array) && distance < gs(array) + static_cast<std::int64_t>(sizeof array);
  };
  for (unsigned i = 0; i < 16; ++i)
    if (at(core_.s.gpr[i])) return fmt::format("guest.{}", kRegisters[i]);
  for (unsigned i = 0; i < 6; ++i)
    if (at(core_.s.seg[i].base)) return fmt::format("guest.{}.base", kSegments[i]);
  for (unsigned i = 0; i < 16; ++i) {
    if (at(core_.s.vector[i].bytes)) return fmt::format("guest.vector{}", i);
    if (distance == gs(core_.s.vector[i].bytes) + 16) return fmt::format("guest.vector{}.upper", i);
  }
  if (at(core_.s.rip)) return "guest.rip";
  if (at(core_.s.rflags)) return "guest.rflags";
  if (at(core_.s.mxcsr)) return "guest.mxcsr";
  if (at(core_.attention_)) return "attention";
  if (at(core_.pcid_)) return "address_space";
  if (at(core_.s.interrupt_shadow)) return "guest.interrupt_shadow";
  if (at(core_.interrupt_waiting_)) return "interrupt_waiting";
  const std::pair<const void*, std::string_view> fields[] = {
      {&c.flags, "flags"},
      {&c.page_base, "page_base"},
      {&c.rax, "kept.rax"},
      {&c.rcx, "kept.rcx"},
      {&c.rdx, "kept.rdx"},
      {&c.value, "value"},
      {&c.borrowed, "borrowed"},
      {&c.last_round, "last_round"},
      {&c.rounds_left, "rounds_left"},
      {&c.jump_target, "jump_target"},
      {&c.resume, "resume"},
      {&c.host_rsp, "host_rsp"},
      {&c.return_stack, "return_stack"},
      {&c.stack_pointer, "stack_pointer"},
      {&c.return_stack_limit, "return_stack_limit"},
      {&c.self, "self"},
      {&c.missed, "missed"},
      {&c.host_mxcsr, "host_mxcsr"},
      {&c.vectors_away, "vectors_away"},
      {&c.reload_vectors, "reload_vectors"},
      {&c.x87_resident, "x87_resident"},
      {&c.x87_saved, "x87_saved"},
      {&c.reload_x87, "reload_x87"},
      {&c.x87, "x87"},
      {&c.local_supervisor, "local_supervisor"},
      {&c.hot.instructions, "count.instructions"},
      {&c.hot.slot_misses, "count.slot_misses"},
      {&c.hot.table_misses, "count.table_misses"},
  };
  const auto* const place = reinterpret_cast<const std::uint8_t*>(&core_) + distance;
  for (const auto& [field, name] : fields)
    if (field == place) return std::string(name);
  if (inside(c.linear_tags)) return "linear_tags";
  if (inside(c.host_tags)) return "host_tags";
  if (inside(c.heat))
    return fmt::format("heat{}", (distance - gs(c.heat)) / static_cast<std::int64_t>(sizeof c.heat[0]));
  if (inside(c.group_hosts))
    return fmt::format("group_host{}",
                       (distance - gs(c.group_hosts)) / static_cast<std::int64_t>(sizeof c.group_hosts[0]));
  if (inside(c.slots)) {
    const auto offset = static_cast<std::uint64_t>(distance - gs(c.slots));
    return fmt::format("slot{}.{}", offset / sizeof(DataSlot), offset % sizeof(DataSlot) ? "addend" : "page");
  }
  for (unsigned privilege = 0; privilege < Core::kMmuCount; ++privilege) {
    for (const bool write : {false, true})
      if (inside(c.tlb[privilege][write]))
        return fmt::format("tlb.{}.{}{}", kPrivileges[privilege], write ? "store" : "load",
                           distance == gs(c.tlb[privilege][write]) ? ".page" : ".host");
    if (inside(c.jumps[privilege]))
      return fmt::format("jumps.{}{}", kPrivileges[privilege], distance == gs(c.jumps[privilege]) ? ".rip" : ".host");
  }
  return {};
}

void Engine::observe(CodeObserver* observer) {
  observer_ = observer;
  if (!observer) return;
  const std::uint8_t* const begin = cache_.begin();
  const std::size_t bytes = cache_.kept_bytes();
  observer->shared_code(core_.index(), {reinterpret_cast<std::uintptr_t>(cache_.running(begin)), {begin, bytes}});
}

void Engine::tell_observer(std::uint64_t linear, std::span<const std::uint8_t> guest, CodePiece hot,
                           CodePiece cold) const {
  const auto piece = [this](CodePiece written) {
    return HostCode{reinterpret_cast<std::uintptr_t>(cache_.running(written.begin)), {written.begin, written.end}};
  };
  observer_->translated({.cpu = core_.index(),
                         .linear = linear,
                         .code_size = core_.code_size_,
                         .guest = guest,
                         .hot = piece(hot),
                         .cold = piece(cold),
                         .names = this});
}

}  // namespace husk::cpu::jit
