// husk: the gdb server
#include "monitor/gdb_server.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "monitor/cpu_view.h"

namespace husk::monitor {

using host::EventLoop;

Result<std::unique_ptr<GdbServer>> GdbServer::create(Deps deps, const host::SocketAddress& address) {
  std::unique_ptr<GdbServer> server(new GdbServer(std::move(deps)));
  server->listener_.emplace(HUSK_TRY(host::Listener::listen(address)));
  GdbServer* const self = server.get();
  server->listening_ = HUSK_TRY(self->deps_.loop.watch(server->listener_->fd(), EventLoop::kReadable,
                                                       [self](EventLoop::Events) { self->accept(); }));
  self->deps_.machine.on_new_cpus([self] { return self->apply(std::nullopt); });
  return server;
}

GdbServer::~GdbServer() = default;

template <class Work>
auto GdbServer::undisturbed(Work&& work) {
  struct Scope {
    explicit Scope(GdbServer& which) : server(which), before(std::exchange(which.busy_, true)) {
      if (server.watching_) server.watching_.set_interest(0);
    }
    ~Scope() {
      server.busy_ = before;
      if (!before && server.watching_) server.watching_.set_interest(server.interest());
    }
    GdbServer& server;
    bool before;
  };
  const Scope scope(*this);
  return work();
}

EventLoop::Events GdbServer::interest() const {
  // What the client does not take now goes out when it does; a client that is gone is noticed by reading.
  return unsent_.empty() ? EventLoop::kReadable
                         : static_cast<EventLoop::Events>(EventLoop::kReadable | EventLoop::kWritable);
}

void GdbServer::pause() {
  undisturbed([this] { deps_.machine.pause(); });
}

void GdbServer::accept() {
  auto client = listener_->accept();
  if (!client || !*client) return;
  if (session_ || busy_) {
    deps_.log.warning("gdb server: a second debugger was turned away");
    return;
  }
  // gdb expects a machine that stands still when it connects.
  undisturbed([this] { deps_.machine.pause(); });
  client_ = std::move(**client);
  host::set_no_delay(client_.get());
  auto watch = deps_.loop.watch(client_.get(), EventLoop::kReadable, [this](EventLoop::Events) { readable(); });
  if (!watch) {
    client_ = {};
    deps_.machine.resume();
    return;
  }
  watching_ = std::move(*watch);
  session_ = std::make_unique<GdbSession>(*this, [this](std::string_view bytes) { send(bytes); });
}

void GdbServer::drop_client() {
  if (!session_) return;
  watching_.reset();
  client_ = {};
  unsent_.clear();
  session_.reset();
  request_ = {};
  (void)apply(std::nullopt);
  deps_.machine.resume();
}

void GdbServer::readable() {
  if (busy_) return;  // the client has gone, say; there is time for that afterwards
  std::array<std::uint8_t, 4096> bytes;
  if (!unsent_.empty()) send({});
  for (;;) {
    const ssize_t got = ::read(client_.get(), bytes.data(), bytes.size());
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (got <= 0) return drop_client();
    session_->receive(std::span(bytes).first(static_cast<std::size_t>(got)));
    if (!session_) return;  // the packet ended the session
  }
}

void GdbServer::send(std::string_view bytes) {
  unsent_ += bytes;
  while (!unsent_.empty()) {
    const ssize_t done = ::write(client_.get(), unsent_.data(), unsent_.size());
    if (done <= 0) break;
    unsent_.erase(0, static_cast<std::size_t>(done));
  }
  watching_.set_interest(busy_ ? EventLoop::Events{0} : interest());
}

Status GdbServer::apply(std::optional<unsigned> step) {
  for (unsigned i = 0; i < deps_.machine.cpu_count(); ++i) {
    cpu::DebugRequest request = request_;
    request.single_step = step == i;
    HUSK_TRY(deps_.machine.vcpu(i).set_debug(request));
  }
  return {};
}

Status GdbServer::set_breakpoints(const cpu::DebugRequest& request) {
  request_ = request;
  return apply(std::nullopt);
}

void GdbServer::resume(std::optional<unsigned> step) {
  stepping_ = step;
  (void)apply(step);
  deps_.machine.resume();
}

void GdbServer::detach() {
  // The session is on the call stack: it goes when the stack is unwound.
  deps_.loop.post([this] { busy_ ? detach() : drop_client(); });
}

bool GdbServer::take(const machine::MachineEvent& event) {
  if (!session_) return false;
  GdbSession::Stop stop;
  stop.cpu = event.vcpu;
  stop.address = event.address;
  switch (event.kind) {
    case machine::MachineEvent::Kind::debug: {
      const bool stepped = stepping_ == event.vcpu;
      const auto is_watch = std::any_of(request_.watchpoints.begin(), request_.watchpoints.end(),
                                        [&](const auto& watch) { return watch.address == event.address; });
      const auto is_break = std::find(request_.breakpoints.begin(), request_.breakpoints.end(), event.address) !=
                            request_.breakpoints.end();
      stop.why = is_watch               ? GdbSession::Stop::Why::watchpoint
                 : is_break && !stepped ? GdbSession::Stop::Why::breakpoint
                                        : GdbSession::Stop::Why::step;
      break;
    }
    case machine::MachineEvent::Kind::triple_fault:
    case machine::MachineEvent::Kind::failed: stop.why = GdbSession::Stop::Why::fault; break;
    default: return false;
  }
  stepping_.reset();
  pause();
  (void)apply(std::nullopt);
  session_->stopped(stop);
  return true;
}

std::optional<std::string> GdbServer::command(std::string_view line) {
  if (line == "reset") {
    const auto done = undisturbed([this] { return deps_.machine.reset(); });
    return done ? "machine reset\n" : done.error().text() + "\n";
  }
  if (line == "accelerator") return fmt::format("{}\n", deps_.machine.accelerator_name());
  if (line.starts_with("accelerator ")) {
    const auto done = undisturbed([&] { return deps_.machine.set_accelerator(std::string(line.substr(12))); });
    return done ? fmt::format("the machine runs on {} now\n", deps_.machine.accelerator_name())
                : done.error().text() + "\n";
  }
  if (line == "power") {
    deps_.machine.press_power_button();
    return "power button pressed\n";
  }
  if (line.starts_with("symbol ")) {
    const std::string_view name = line.substr(7);
    const auto address = deps_.address_of ? deps_.address_of(name) : std::nullopt;
    return address ? fmt::format("{:#x}\n", *address) : fmt::format("no symbol {} is known\n", name);
  }
  if (line == "registers") {
    std::string text;
    for (unsigned i = 0; i < deps_.machine.cpu_count(); ++i)
      text += fmt::format("CPU {}\n", i) + registers_text(state(i), [](std::uint64_t) { return std::string(); });
    return text;
  }
  return std::nullopt;
}

}  // namespace husk::monitor
