// husk: the gdb server of a machine: listens, and holds one debugger's session
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "base/log.h"
#include "host/event_loop.h"
#include "host/socket.h"
#include "machine/machine.h"
#include "monitor/gdb_session.h"

namespace husk::monitor {

/// On the loop's thread. One debugger at a time: a second client is turned away.
class GdbServer final : public GdbTarget {
 public:
  struct Deps {
    host::EventLoop& loop;
    Log& log;
    machine::Machine& machine;
    const cpu::CpuModel& model;
    std::function<void()> kill;  ///< the debugger asked for the end of the machine
    /// The address of a name in the guest's kernel; may be null.
    std::function<std::optional<std::uint64_t>(std::string_view name)> address_of = {};
  };
  static Result<std::unique_ptr<GdbServer>> create(Deps deps, const host::SocketAddress& address);
  ~GdbServer() override;

  const host::SocketAddress& address() const { return listener_->address(); }
  bool attached() const { return session_ != nullptr; }
  /// A debug stop, or a fault that would end the machine. False if no debugger is attached, and the caller must decide.
  bool take(const machine::MachineEvent& event);

 private:
  explicit GdbServer(Deps deps) : deps_(std::move(deps)) {}
  void accept();
  void readable();
  host::EventLoop::Events interest() const;
  void send(std::string_view bytes);
  void drop_client();

  unsigned cpu_count() const override { return deps_.machine.cpu_count(); }
  const cpu::CpuModel& model() const override { return deps_.model; }
  mem::AddressSpace& memory() override { return deps_.machine.memory_space(); }
  cpu::CpuState state(unsigned cpu) override { return deps_.machine.vcpu(cpu).get_state(); }
  Status set_state(unsigned cpu, const cpu::CpuState& state) override {
    return deps_.machine.vcpu(cpu).set_state(state);
  }
  Status set_breakpoints(const cpu::DebugRequest& request) override;
  void resume(std::optional<unsigned> step) override;
  void pause() override;
  void detach() override;
  void kill() override { deps_.kill(); }
  std::optional<std::string> command(std::string_view line) override;
  Status apply(std::optional<unsigned> step);
  /// For what runs the loop meanwhile: the client's next packet must not come in the midst of this one.
  template <class Work>
  auto undisturbed(Work&& work);

  Deps deps_;
  std::optional<host::Listener> listener_;
  host::EventLoop::Watch listening_;
  host::UniqueFd client_;
  host::EventLoop::Watch watching_;
  std::string unsent_;
  bool busy_ = false;  ///< inside undisturbed()
  std::unique_ptr<GdbSession> session_;
  cpu::DebugRequest request_;
  std::optional<unsigned> stepping_;
};

}  // namespace husk::monitor
