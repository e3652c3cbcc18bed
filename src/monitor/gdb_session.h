// husk: the GDB remote serial protocol as a pure conversation: bytes in, bytes out
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "cpu/debug.h"
#include "cpu/model.h"
#include "cpu/state.h"
#include "mem/address_space.h"

namespace husk::monitor {

/// The machine as the debugger sees it. Registers and memory are accessed only while it is stopped.
class GdbTarget {
 public:
  virtual ~GdbTarget() = default;
  virtual unsigned cpu_count() const = 0;
  virtual const cpu::CpuModel& model() const = 0;
  virtual mem::AddressSpace& memory() = 0;
  virtual cpu::CpuState state(unsigned cpu) = 0;
  virtual Status set_state(unsigned cpu, const cpu::CpuState& state) = 0;
  /// Applies to every CPU; single_step is ignored.
  virtual Status set_breakpoints(const cpu::DebugRequest& request) = 0;
  /// Lets the machine run; `step` names a CPU that stops after one instruction. The end is told to GdbSession::stopped.
  virtual void resume(std::optional<unsigned> step) = 0;
  virtual void pause() = 0;
  /// gdb has gone: breakpoints are cleared and the machine runs on.
  virtual void detach() = 0;
  virtual void kill() = 0;
  /// The text of `monitor COMMAND`, or nothing if there is no such command.
  virtual std::optional<std::string> command(std::string_view line) = 0;
};

/// One debugger's connection. Sources: GDB manual, appendix E "Remote Serial Protocol"; target descriptions: appendix
/// G.
class GdbSession {
 public:
  using Send = std::function<void(std::string_view bytes)>;
  GdbSession(GdbTarget& target, Send send) : target_(target), send_(std::move(send)) {}

  void receive(std::span<const std::uint8_t> bytes);

  struct Stop {
    enum class Why : std::uint8_t { interrupted, breakpoint, watchpoint, step, fault } why = Why::interrupted;
    unsigned cpu = 0;
    std::uint64_t address = 0;  ///< watchpoint
  };
  /// The running machine has stopped.
  void stopped(const Stop& stop);
  bool machine_runs() const { return running_; }

 private:
  static constexpr std::size_t kPacketLimit = 0x4000;  ///< bytes of one packet, as told in qSupported

  void packet(std::string_view body);
  void reply(std::string_view body);
  void handle(std::string_view body);
  void query(std::string_view body);
  void transfer(std::string_view body);
  void continue_with(std::string_view actions);
  void resume(std::optional<unsigned> step);
  void breakpoint(bool insert, std::string_view arguments);
  void select_thread(std::string_view arguments);
  void read_memory(std::string_view arguments);
  void write_memory(std::string_view arguments, bool binary);
  void read_registers();
  void write_registers(std::string_view hex);
  void read_register(std::string_view number);
  void write_register(std::string_view arguments);
  std::string stop_reply() const;

  GdbTarget& target_;
  Send send_;
  std::string buffer_;
  std::string last_reply_;
  bool acknowledge_ = true;
  bool running_ = false;
  bool physical_ = false;  ///< Qqemu.PhyMemMode: memory packets take physical addresses
  unsigned cpu_ = 0;       ///< for registers and memory
  Stop stop_;
  cpu::DebugRequest request_;
  std::vector<unsigned> thread_list_;
};

}  // namespace husk::monitor
