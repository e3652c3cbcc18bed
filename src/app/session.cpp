// husk: the host's side of one run: main loop, signals, terminal, character devices, time-out
#include "app/session.h"

#include <cerrno>
#include <csignal>
#include <cstdio>

namespace husk::app {

void print_error(const char* program, const Error& error) {
  std::fprintf(stderr, "%s: %s\n", program, error.text().c_str());
}

int conclude(const Ending& ending, Dialect dialect) {
  if (ending.kind == Ending::Kind::signal && dialect != Dialect::qemu) host::die_by_signal(ending.status);
  return exit_status(ending, dialect);
}

namespace {
const char* prefix(LogLevel level) {
  switch (level) {
    case LogLevel::error: return "error: ";
    case LogLevel::warning: return "warning: ";
    default: return "";
  }
}
constexpr std::uint64_t kLastWordsNs = 1'000'000'000;
}  // namespace

Session::Session(const machine::MachineConfig& config, const LaunchOptions& options)
    : options_(options),
      timeout_ns_(config.timeout_ns),
      log_(
          [this](LogLevel level, std::string_view line) {
            // What only -d or --guest-errors shows goes where traces go.
            std::FILE* out = level == LogLevel::debug ? trace_file() : stderr;
            std::fprintf(out, "%s: %s%.*s\n", options_.program, prefix(level), static_cast<int>(line.size()),
                         line.data());
          },
          config.debug_log.guest_errors ? LogLevel::debug : LogLevel::info) {}

Result<std::unique_ptr<Session>> Session::create(const machine::MachineConfig& config, const LaunchOptions& options) {
  std::unique_ptr<Session> session(new Session(config, options));
  session->loop_ = HUSK_TRY(host::EventLoop::create());
  if (const std::string& path = config.debug_log.file; !path.empty()) {
    session->log_file_.reset(std::fopen(path.c_str(), "we"));
    if (!session->log_file_) return fail_errno(errno, "cannot write the log file " + path);
  }
  // A client that hangs up must not kill the machine.
  ::signal(SIGPIPE, SIG_IGN);
  Session* self = session.get();
  const auto signalled = [self](int signal) { self->signalled(signal); };
  session->signals_.emplace(HUSK_TRY(
      config.debug_log.statistics
          ? host::SignalWatch::create(*session->loop_, {SIGINT, SIGTERM, SIGHUP, SIGTSTP, SIGCONT, SIGUSR1}, signalled)
          : host::SignalWatch::create(*session->loop_, {SIGINT, SIGTERM, SIGHUP, SIGTSTP, SIGCONT}, signalled)));
  if (!config.pid_file.empty()) session->pid_file_.emplace(HUSK_TRY(host::PidFile::create(config.pid_file)));
  session->chardevs_.emplace(HUSK_TRY(chardev::ChardevSet::create(
      *session->loop_, config.chardevs,
      {.quit = [self] { self->end({.kind = Ending::Kind::user_quit}); }, .log = &session->log_})));
  for (const auto& device : session->chardevs_->all()) {
    const std::string text = device->describe();
    // QEMU's users parse this line.
    if (text.starts_with("pty "))
      std::fprintf(stderr, "char device redirected to %s (label %s)\n", text.substr(4, text.find(',') - 4).c_str(),
                   device->id().c_str());
  }
  return session;
}

Session::~Session() {
  if (chardevs_) flush_output();
}

Result<std::unique_ptr<core::CharBackend>> Session::attach(const std::string& chardev_id, chardev::DomainRunner run,
                                                           const std::string& name) {
  chardev::Chardev* device = chardevs_->find(chardev_id);
  if (!device) return fail("{} wants the character device '{}', which is not there", name, chardev_id);
  return device->attach(std::move(run), name);
}

void Session::on_suspend(std::function<void()> suspend, std::function<void()> resume) {
  suspend_ = std::move(suspend);
  resume_ = std::move(resume);
}

void Session::signalled(int signal) {
  if (signal == SIGTSTP) {
    if (suspend_) suspend_();
    chardevs_->suspend_terminal();
    host::stop_self();
    // Here again after SIGCONT.
    chardevs_->resume_terminal();
    if (resume_) resume_();
    return;
  }
  if (signal == SIGCONT) {
    if (continue_) continue_();
    return;
  }
  if (take_signal_ && take_signal_(signal)) return;
  if (signal == SIGUSR1) {
    if (show_statistics_) show_statistics_();
    return;
  }
  end({.kind = Ending::Kind::signal, .status = signal});
}

void Session::end(Ending ending) {
  {
    const std::lock_guard guard(mutex_);
    if (ending_) return;
    ending_ = ending;
  }
  loop_->stop();
}

std::optional<Ending> Session::wait_for_clients() {
  bool said = false;
  while (!chardevs_->ready()) {
    if (!said)
      for (const auto& device : chardevs_->all())
        if (!device->ready()) log_.info("waiting for a connection to {}", device->describe());
    said = true;
    loop_->run_once();
    const std::lock_guard guard(mutex_);
    if (ending_) return ending_;
  }
  return std::nullopt;
}

void Session::flush_output() { chardevs_->flush(kLastWordsNs); }

Ending Session::run() {
  if (timeout_ns_) {
    timeout_ = loop_->make_timer([this] { end({.kind = Ending::Kind::time_out}); });
    timeout_.arm_after(*timeout_ns_);
  }
  for (;;) {
    {
      const std::lock_guard guard(mutex_);
      if (ending_) {
        timeout_ = {};
        // From here on a second signal ends husk at once, however long the machine takes to stop.
        signals_.reset();
        flush_output();
        return *ending_;
      }
    }
    loop_->run();
  }
}

}  // namespace husk::app
