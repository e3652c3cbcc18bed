// husk: the seam between the command lines and the machine
#include "app/launcher.h"

#include <sys/wait.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <ctime>
#include <filesystem>

#include "app/cpu_choice.h"
#include "app/guest_command.h"
#include "app/initrd_check.h"
#include "app/kvm_probe.h"
#include "app/panic_watch.h"
#include "app/session.h"
#include "app/storage_net.h"
#include "boot/initramfs.h"
#include "boot/kernel_file.h"
#include "boot/kernel_symbols.h"
#include "machine/machine.h"
#include "monitor/code_log.h"
#include "monitor/crash_report.h"
#include "monitor/gdb_server.h"
#include "monitor/statistics_report.h"
#include "monitor/trace_log.h"
#include "netdev/vsock_sockets.h"

namespace husk::app {
namespace {

using machine::MachineConfig;
using machine::MachineEvent;

/// One run from configuration to ending.
class Launch {
 public:
  Launch(const MachineConfig& config, const LaunchOptions& options, Session& session)
      : config_(config), options_(options), session_(session), outside_(session.loop(), session.log(), config) {}

  Status prepare();
  Ending run();

 private:
  /// `why` gets a line about a choice that husk made itself.
  Status choose_accelerator(machine::MachineOptions& machine, std::string& why) const;
  Status choose_irqchip(machine::MachineOptions& machine) const;
  Status choose_cpu(machine::MachineOptions& machine);
  /// Warns of them or refuses, as the user wishes.
  Status missing_features(std::string_view who, const std::string& names) const;
  Status read_boot_files(machine::MachineOptions& machine);
  /// Fills kernel_ and modules_.
  Status read_kernel();
  Result<boot::LoadedGuest> load(mem::GuestMemory& memory, const machine::MicroBoard& board);
  Status wire_devices(machine::MachineOptions& machine);
  void inherit_errors(machine::DiskErrorConfig& errors, const std::string& drive) const;
  machine::VirtioSpec virtio_spec(const machine::VirtioConfig& device);
  machine::CharBackendFactory chardev(const std::string& id);
  /// Ends the run when the kernel prints that it has panicked.
  machine::CharBackendFactory watched(machine::CharBackendFactory inner);
  Status start_trace();
  Status set_trace();
  Status observe_code();
  Status show_code();
  void start_statistics();
  /// Shows the figures; the machine is paused.
  void show_statistics();
  Status start_gdb();
  void handle(const MachineEvent& event);
  void report(const MachineEvent& event, const std::string& headline);
  Status start_command();
  void command_ended(const CommandEnd& end);
  /// An ending that cut the command off: shows what the kernel had to say.
  void explain(const Ending& ending);
  std::span<const boot::SymbolTable* const> symbol_tables() const;
  std::string symbol(std::uint64_t address) const;
  std::optional<std::uint64_t> address_of(std::string_view name) const;

  const MachineConfig& config_;
  const LaunchOptions& options_;
  Session& session_;
  bool ran_before_suspend_ = false;
  bool io_stopped_ = false;  ///< by the error policy of a disk
  cpu::CpuModel model_;
  std::vector<std::uint8_t> kernel_;  ///< only until it is loaded, as modules_
  boot::FileStamp kernel_stamp_;
  std::vector<std::vector<std::uint8_t>> modules_;
  std::unique_ptr<boot::KernelSymbols> symbols_;  ///< none with firmware
  std::unique_ptr<monitor::TraceLog> trace_;
  machine::TraceSet trace_categories_ = 0;
  StorageAndNetworks outside_;
  std::unique_ptr<CommandRun> command_;
  unsigned interrupts_ = 0;
  monitor::CodeObservers code_observers_;
  std::unique_ptr<machine::Machine> machine_;
  host::EventLoop::Timer sampling_;
  std::vector<monitor::DoingSamples> samples_;
  std::unique_ptr<monitor::GdbServer> gdb_;
};

Status Launch::choose_accelerator(machine::MachineOptions& machine, std::string& why) const {
  using machine::AcceleratorKind;
  const auto own = [&](AcceleratorKind kind) {
    machine.accelerator = HUSK_HAVE_JIT && kind != AcceleratorKind::interp ? "jit" : "interp";
  };
  Log& log = session_.log();
  if (config_.accelerators.empty()) {
    // KVM does not show what most traces are about.
    if (config_.debug_log.trace & ~(accel::TraceSink::kIo | accel::TraceSink::kMmio)) {
      own(AcceleratorKind::jit);
      return {};
    }
    const KvmReport kvm = probe_kvm(ProbeDepth::decide);
    if (kvm.state == KvmReport::State::usable) {
      machine.accelerator = "kvm";
    } else {
      own(AcceleratorKind::jit);
    }
    why = fmt::format("accelerator: {} (KVM is {})", machine.accelerator, to_text(kvm.state));
    return {};
  }
  // Named ones are tried in order; what is named last must work.
  for (const AcceleratorKind kind : config_.accelerators) {
    if (kind != AcceleratorKind::kvm) {
      own(kind);
      return {};
    }
    machine.accelerator = "kvm";
    if (kind == config_.accelerators.back()) return {};
    const KvmReport kvm = probe_kvm(ProbeDepth::decide);
    if (kvm.state == KvmReport::State::usable || kvm.state == KvmReport::State::slow) return {};
    log.info("accelerator kvm is {}: {}", to_text(kvm.state), kvm.detail);
  }
  return {};
}

Status Launch::choose_irqchip(machine::MachineOptions& machine) const {
  using machine::KernelIrqchip;
  machine.kernel_irqchip = config_.kernel_irqchip;
  machine.lost_ticks = config_.lost_ticks.value_or(machine::LostTicks::delay);
  const bool kvm = machine.accelerator == "kvm";
  const bool asked_for = config_.kernel_irqchip == KernelIrqchip::on || config_.kernel_irqchip == KernelIrqchip::split;
  const auto& named = config_.accelerators;
  // Where KVM was to be tried first, whoever takes its place has his own.
  const bool kvm_named = std::ranges::find(named, machine::AcceleratorKind::kvm) != named.end();
  if (asked_for && !kvm && !kvm_named)
    return std::unexpected(Error{fmt::format("kernel_irqchip asks for KVM's interrupt controllers, and the accelerator "
                                             "is {}",
                                             machine.accelerator),
                                 "leave kernel_irqchip out, or use accelerator kvm"});
  if (config_.lost_ticks == machine::LostTicks::delay && kvm) {
    // Only KVM's own timer can.
    if (config_.kernel_irqchip == KernelIrqchip::automatic) machine.kernel_irqchip = KernelIrqchip::on;
    if (machine.kernel_irqchip != KernelIrqchip::on)
      return std::unexpected(Error{"lost_tick_policy=delay is of KVM's own timer, which this machine does not use",
                                   "add kernel_irqchip=on, or leave the policy out"});
  }
  return {};
}

Status Launch::choose_cpu(machine::MachineOptions& machine) {
  model_ = HUSK_TRY(cpu::cpu_model(config_.cpu.model));
  if (!config_.cpu.edits.empty()) HUSK_TRY(cpu::edit_features(model_, machine::edits_text(config_.cpu.edits)));
  model_.topology = {config_.cpu.topology.sockets, config_.cpu.topology.cores, config_.cpu.topology.threads};
  machine.cpu_model = model_;
  machine.warn_of_missing_features = config_.cpu.missing != machine::MissingFeatures::leave_out;
  return missing_features("husk", features_left_out(config_.cpu));
}

Status Launch::missing_features(std::string_view who, const std::string& names) const {
  if (names.empty() || config_.cpu.missing == machine::MissingFeatures::leave_out) return {};
  const std::string what =
      fmt::format("{} cannot give the CPU model {} these features: {}", who, config_.cpu.model, names);
  if (config_.cpu.missing == machine::MissingFeatures::refuse)
    return std::unexpected(Error{what, "leave 'enforce' out, take them away (-FEATURE), or choose another model"});
  session_.log().warning("{}", what);
  return {};
}

Status Launch::read_boot_files(machine::MachineOptions& machine) {
  const machine::BootConfig& boot = config_.boot;
  if (!boot.firmware.empty()) {
    machine.board.rom = HUSK_TRY(boot::read_boot_file(boot.firmware, "firmware", std::uint64_t{16} << 20));
    const std::size_t size = machine.board.rom.size();
    if (size < 0x10000 || size % 0x10000 != 0)
      return std::unexpected(Error{fmt::format("firmware {} has {} bytes", boot.firmware, size),
                                   "a ROM image has 64 KiB to 16 MiB, in multiples of 64 KiB"});
    return {};
  }
  HUSK_TRY(read_kernel());
  machine.boot = [this](mem::GuestMemory& memory, const machine::MicroBoard& board) { return load(memory, board); };
  return {};
}

Status Launch::read_kernel() {
  const machine::BootConfig& boot = config_.boot;
  const boot::FileStamp before = kernel_stamp_;
  kernel_ = HUSK_TRY(boot::read_boot_file(boot.kernel, "kernel", boot::kKernelFileLimit, &kernel_stamp_));
  const boot::KernelKind kind = HUSK_TRY(boot::detect_kernel(kernel_, boot.kernel));
  if (symbols_ && kernel_stamp_ != before)
    session_.log().info("kernel {} has changed; the guest starts again with it as it is now", boot.kernel);
  if (!symbols_ || kernel_stamp_ != before)
    symbols_ = std::make_unique<boot::KernelSymbols>(boot::KernelSymbols::Source{
        boot.kernel, kernel_stamp_, !boot.guest_decompress,
        [this](const std::string& why) { session_.log().info("there are no kernel symbols: {}", why); }});
  if (command_) {
    if (kind == boot::KernelKind::multiboot)
      return fail("'{}' is a Multiboot kernel: a command runs on Linux only", boot.kernel);
    modules_.push_back(HUSK_TRY(command_->make_initramfs(config_, kernel_)));
  } else if (!boot.builtin_initramfs_busybox.empty() && kind != boot::KernelKind::multiboot) {
    modules_.push_back(HUSK_TRY(boot::make_default_initramfs(std::filesystem::path(boot.builtin_initramfs_busybox))));
  } else if (!boot.initrd.empty() && kind != boot::KernelKind::multiboot) {
    modules_.push_back(HUSK_TRY(boot::read_boot_file(boot.initrd, "initrd", boot::kInitrdFileLimit)));
    HUSK_TRY(check_initrd(kernel_, modules_.back(), boot.initrd));
  } else {
    for (const machine::ModuleConfig& module : boot.modules)
      modules_.push_back(HUSK_TRY(boot::read_boot_file(module.path, "module", boot::kInitrdFileLimit)));
  }
  return {};
}

Result<boot::LoadedGuest> Launch::load(mem::GuestMemory& memory, const machine::MicroBoard& board) {
  // After a reset. What the guest starts with is read again, as a real machine's loader does, rather than kept in
  // memory for the guest's life.
  const auto release = [](Launch* launch) {
    launch->kernel_ = std::vector<std::uint8_t>();  // "= {}" would keep the memory
    launch->modules_.clear();
  };
  const std::unique_ptr<Launch, decltype(release)> at_the_end(this, release);
  if (kernel_.empty()) HUSK_TRY(read_kernel());
  boot::BootRequest request;
  request.layout = board.layout();
  request.command_line = config_.boot.append;
  request.guest_decompress = config_.boot.guest_decompress;
  const bool own_modules = modules_.size() == config_.boot.modules.size();
  for (std::size_t i = 0; i < modules_.size(); ++i) {
    boot::BootModule module{modules_[i], {}};
    if (own_modules) {
      const machine::ModuleConfig& from = config_.boot.modules[i];
      module.command_line = from.arguments.empty() ? from.path : from.path + " " + from.arguments;
    }
    request.modules.push_back(std::move(module));
  }
  request.rsdp_address = HUSK_TRY(board.write_tables(memory));
  return boot::load_kernel(memory, kernel_, config_.boot.kernel, request);
}

machine::CharBackendFactory Launch::chardev(const std::string& id) {
  const auto plain = [this, id](mem::LockDomain& domain,
                                const std::string& name) -> Result<std::unique_ptr<core::CharBackend>> {
    return session_.attach(
        id,
        [&domain](const std::function<void()>& work) {
          const mem::DomainGuard guard(&domain);
          work();
        },
        name);
  };
  return options_.dialect == Dialect::qemu ? machine::CharBackendFactory(plain) : watched(plain);
}

machine::CharBackendFactory Launch::watched(machine::CharBackendFactory inner) {
  return [this, inner = std::move(inner)](mem::LockDomain& domain,
                                          const std::string& name) -> Result<std::unique_ptr<core::CharBackend>> {
    return std::make_unique<PanicWatch>(HUSK_TRY(inner(domain, name)),
                                        [this] { session_.end({.kind = Ending::Kind::guest_panic}); });
  };
}

void Launch::inherit_errors(machine::DiskErrorConfig& errors, const std::string& drive) const {
  for (const machine::DriveConfig& one : config_.drives) {
    if (one.id != drive) continue;
    if (!errors.read) errors.read = one.errors.read;
    if (!errors.write) errors.write = one.errors.write;
  }
}

machine::VirtioSpec Launch::virtio_spec(const machine::VirtioConfig& device) {
  machine::VirtioSpec spec{.config = device};
  if (const auto* blk = std::get_if<machine::VirtioBlkConfig>(&device))
    spec.block = [this, id = blk->drive](mem::LockDomain& domain, const std::string&) {
      return outside_.attach_drive(id, domain);
    };
  if (auto* blk = std::get_if<machine::VirtioBlkConfig>(&spec.config)) inherit_errors(blk->errors, blk->drive);
  if (auto* scsi = std::get_if<machine::VirtioScsiConfig>(&spec.config))
    for (machine::ScsiUnitConfig& unit : scsi->units) {
      inherit_errors(unit.errors, unit.drive);
      machine::BackendFactory<core::BlockBackend> factory;
      // A CD-ROM drive never writes, so that its image may be shared and read-only.
      if (!unit.drive.empty())
        factory = [this, id = unit.drive, cdrom = unit.cdrom](mem::LockDomain& domain, const std::string&) {
          return outside_.attach_drive(id, domain, cdrom);
        };
      spec.units.push_back(std::move(factory));
    }
  if (const auto* net = std::get_if<machine::VirtioNetConfig>(&device); net && !net->netdev.empty()) {
    if (net->multi_queue) spec.net_queues = outside_.network_queues(net->netdev);
    spec.net = [this, id = net->netdev](mem::LockDomain& domain, const std::string&) {
      return outside_.attach_network(id, domain);
    };
  }
  if (const auto* fs = std::get_if<machine::VirtioFsConfig>(&device))
    spec.fs = [this, id = fs->folder](mem::LockDomain& domain, const std::string&) {
      return outside_.attach_folder(id, domain);
    };
  if (const auto* ninep = std::get_if<machine::Virtio9pConfig>(&device))
    spec.fs = [this, id = ninep->folder](mem::LockDomain& domain, const std::string&) {
      return outside_.attach_ninep(id, domain);
    };
  if (const auto* pmem = std::get_if<machine::VirtioPmemConfig>(&device))
    spec.pmem = [this, id = pmem->memory](mem::LockDomain& domain, const std::string&) {
      return outside_.attach_memory(id, domain);
    };
  if (const auto* vsock = std::get_if<machine::VirtioVsockConfig>(&device))
    spec.vsock = [this, path = vsock->path](mem::LockDomain& domain, const std::string&) {
      return netdev::open_vsock_sockets(session_.loop(), session_.log(), domain, path);
    };
  if (const auto* console = std::get_if<machine::VirtioConsoleConfig>(&device))
    for (const machine::VirtioPortConfig& port : console->ports)
      spec.ports.push_back(port.chardev.empty() ? machine::CharBackendFactory() : chardev(port.chardev));
  return spec;
}

Status Launch::wire_devices(machine::MachineOptions& machine) {
  if (command_) {
    machine.board.virtio = command_->devices();
    if (config_.serials.empty() || config_.serials.front().empty())
      machine.board.serial[0] = watched(command_->console());
  }
  for (const machine::VirtioConfig& device : config_.virtio) machine.board.virtio.push_back(virtio_spec(device));
  for (std::size_t i = 0; i < config_.serials.size(); ++i)
    if (!config_.serials[i].empty()) machine.board.serial[i] = chardev(config_.serials[i]);
  for (const machine::DeviceConfig& device : config_.devices) {
    if (const auto* exit = std::get_if<machine::DebugExitConfig>(&device)) machine.board.debug_exits.push_back(*exit);
    if (const auto* console = std::get_if<machine::DebugConsoleConfig>(&device))
      machine.board.debugcons.push_back({*console, chardev(console->chardev)});
    if (std::holds_alternative<machine::PcTestDeviceConfig>(device)) machine.board.pc_testdev = true;
    if (const auto* edu = std::get_if<machine::EduConfig>(&device)) machine.board.edus.push_back(*edu);
    if (const auto* testdev = std::get_if<machine::PciTestDeviceConfig>(&device))
      machine.board.pci_testdevs.push_back(*testdev);
  }
  return {};
}

Status Launch::prepare() {
  machine::MachineOptions machine;
  machine.board.ram_bytes = config_.memory_bytes;
  machine.board.cpus = config_.cpu.topology.count;
  machine.no_reboot = config_.no_reboot;
  machine.statistics = config_.debug_log.statistics;
  // A kernel developer wants to see why; QEMU's users expect the reset that a board would do.
  machine.reset_on_triple_fault = options_.dialect == Dialect::qemu;
  HUSK_TRY(start_command());
  HUSK_TRY(choose_cpu(machine));
  HUSK_TRY(read_boot_files(machine));
  HUSK_TRY(wire_devices(machine));
  std::string why;
  HUSK_TRY(choose_accelerator(machine, why));
  HUSK_TRY(choose_irqchip(machine));
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  ::localtime_r(&now, &local);
  machine.wall_clock_base = machine::wall_clock_base(config_.rtc, now, local.tm_gmtoff);
  if (!machine.wall_clock_base && config_.rtc.base == machine::RtcConfig::Base::local_time)
    machine.board.rtc_offset_seconds = local.tm_gmtoff;
  machine_ = HUSK_TRY(machine::Machine::create(session_.loop(), session_.log(), std::move(machine),
                                               [this](const MachineEvent& event) { handle(event); }));
  // Standard error is the command's.
  if (!why.empty() && (!options_.command || options_.command->verbose)) session_.log().info("{}", why);
  if (config_.cpu.missing == machine::MissingFeatures::refuse)
    HUSK_TRY(missing_features(machine_->accelerator_name(), features_lost(model_, machine_->cpu_model())));
  model_ = machine_->cpu_model();
  HUSK_TRY(start_trace());
  HUSK_TRY(observe_code());
  machine_->on_new_cpus([this]() -> Status {
    HUSK_TRY(set_trace());
    return show_code();
  });
  start_statistics();
  return start_gdb();
}

Status Launch::observe_code() {
  using machine::TraceCategory;
  const machine::DebugLogConfig& log = config_.debug_log;
  const auto wants = [&log](TraceCategory category) {
    return (log.trace & static_cast<machine::TraceSet>(category)) != 0;
  };
  const auto name_of = [this](std::uint64_t address) { return symbol(address); };
  if (wants(TraceCategory::in_asm) || wants(TraceCategory::out_asm))
    code_observers_.add(std::make_unique<monitor::CodeLog>(monitor::CodeLog::Deps{
        session_.trace_file(), wants(TraceCategory::in_asm), wants(TraceCategory::out_asm), name_of}));
  if (log.perf_map)
    code_observers_.add(HUSK_TRY(monitor::PerfMap::create(monitor::PerfMap::path_of_this_process(), name_of)));
  return show_code();
}

Status Launch::show_code() {
  if (code_observers_.empty()) return {};
  for (unsigned i = 0; i < machine_->cpu_count(); ++i) {
    auto done = machine_->vcpu(i).observe_code(&code_observers_);
    if (!done)
      return std::unexpected(
          std::move(done).error().within(fmt::format("accelerator {}", machine_->accelerator_name())));
  }
  return {};
}

void Launch::start_statistics() {
  if (!config_.debug_log.statistics) return;
  // Odd to the guest's own periods, so that the samples do not meet its timer.
  constexpr std::uint64_t kPeriodNs = 997'000;
  samples_.resize(machine_->cpu_count());
  sampling_ = session_.loop().make_timer([this] {
    if (machine_->running())
      for (unsigned i = 0; i < machine_->cpu_count(); ++i)
        ++samples_[i][static_cast<std::size_t>(machine_->vcpu(i).doing())];
    sampling_.arm_after(kPeriodNs);
  });
  sampling_.arm_after(kPeriodNs);
  session_.on_statistics([this] {
    const bool running = machine_->running();
    if (running) machine_->pause();
    show_statistics();
    if (running) machine_->resume();
  });
}

void Launch::show_statistics() {
  std::vector<accel::Statistics> cpus;
  for (unsigned i = 0; i < machine_->cpu_count(); ++i) cpus.push_back(machine_->vcpu(i).statistics());
  const std::string text =
      monitor::statistics_text({std::string(machine_->accelerator_name()), machine_->clock().now(), cpus, samples_});
  session_.flush_output();
  std::fputs(text.c_str(), stderr);
}

Status Launch::start_trace() {
  const machine::DebugLogConfig& log = config_.debug_log;
  // The rest is of code, not of execution.
  constexpr auto kExecution = static_cast<machine::TraceSet>(machine::TraceCategory::exec) * 2 - 1;
  const machine::TraceSet categories = log.trace & kExecution;
  if (!categories) return {};
  trace_ = std::make_unique<monitor::TraceLog>(
      monitor::TraceLog::Deps{session_.trace_file(), machine_->memory_space(), model_, log.registers,
                              [this](std::uint64_t address) { return symbol(address); }});
  static_assert(static_cast<unsigned>(machine::TraceCategory::exec) == accel::TraceSink::kExec);
  trace_categories_ = categories;
  return set_trace();
}

Status Launch::set_trace() {
  if (!trace_) return {};
  const machine::TraceSet categories = trace_categories_;
  for (unsigned i = 0; i < machine_->cpu_count(); ++i) HUSK_TRY(machine_->vcpu(i).set_trace(trace_.get(), categories));
  return {};
}

Status Launch::start_gdb() {
  if (!config_.gdb) return {};
  gdb_ = HUSK_TRY(monitor::GdbServer::create(
      {session_.loop(), session_.log(), *machine_, model_, [this] { session_.end({.kind = Ending::Kind::user_quit}); },
       [this](std::string_view name) { return address_of(name); }},
      *config_.gdb));
  session_.log().info("gdb server on {}", host::to_text(gdb_->address()));
  return {};
}

Status Launch::start_command() {
  if (!options_.command) return {};
  command_ = HUSK_TRY(CommandRun::create(session_.loop(), session_.log(), *options_.command,
                                         {.ended = [this](const CommandEnd& end) { command_ended(end); },
                                          .quit = [this] { session_.end({.kind = Ending::Kind::user_quit}); }}));
  // Ctrl-C is for the command; who presses it a third time wants to be rid of all of it.
  session_.on_signal([this](int signal) {
    if (signal != SIGINT || !command_->channel().started() || ++interrupts_ > 2) return false;
    command_->channel().send_signal(signal);
    return true;
  });
  return {};
}

void Launch::command_ended(const CommandEnd& end) {
  command_->channel().restore_terminal();
  switch (end.kind) {
    case CommandEnd::Kind::exited:
      // A shell's loop around husk stops at Ctrl-C as it would around the command.
      if (interrupts_ > 0 && WIFSIGNALED(end.status) && WTERMSIG(end.status) == SIGINT)
        return session_.end({.kind = Ending::Kind::signal, .status = SIGINT});
      return session_.end({.kind = Ending::Kind::command,
                           .status = WIFSIGNALED(end.status) ? 128 + WTERMSIG(end.status) : WEXITSTATUS(end.status)});
    case CommandEnd::Kind::not_started:
      std::fprintf(stderr, "%s: %s\n", options_.program, end.text.c_str());
      return session_.end({.kind = Ending::Kind::command,
                           .status = end.status == 0                                 ? usage_status(options_.dialect)
                                     : end.status == ENOENT || end.status == ENOTDIR ? kNotFound
                                                                                     : kNotExecutable});
    case CommandEnd::Kind::failed:
      session_.log().error("{}", end.text);
      return session_.end({.kind = Ending::Kind::not_set_up});
  }
}

void Launch::explain(const Ending& ending) {
  using Kind = Ending::Kind;
  static constexpr Kind kGuestsFault[] = {Kind::power_off,    Kind::reset,    Kind::guest_panic,
                                          Kind::triple_fault, Kind::time_out, Kind::not_set_up};
  if (!command_ || std::find(std::begin(kGuestsFault), std::end(kGuestsFault), ending.kind) == std::end(kGuestsFault))
    return;
  // With --verbose it has been shown; a command that takes too long is not the kernel's fault.
  if (options_.command->verbose || (ending.kind == Kind::time_out && command_->channel().started())) return;
  const std::string text = command_->channel().console_text();
  if (text.empty()) {
    session_.log().info("the kernel has said nothing; --verbose shows all its messages");
    return;
  }
  std::fprintf(stderr, "%s: the kernel's last messages:\n%s%s", options_.program, text.c_str(),
               text.ends_with('\n') ? "" : "\n");
}

std::span<const boot::SymbolTable* const> Launch::symbol_tables() const {
  if (!symbols_) return {};
  return symbols_->tables();
}

std::string Launch::symbol(std::uint64_t address) const {
  const auto hit = symbols_ ? symbols_->find(address) : std::nullopt;
  return hit ? hit->text() : std::string();
}

std::optional<std::uint64_t> Launch::address_of(std::string_view name) const {
  return symbols_ ? symbols_->address_of(name) : std::nullopt;
}

void Launch::report(const MachineEvent& event, const std::string& headline) {
  accel::Vcpu& vcpu = machine_->vcpu(event.vcpu);
  const cpu::CpuState state = vcpu.get_state();
  const auto past = vcpu.past_events();
  const std::uint64_t symbol_offset = machine_->guest() ? machine_->guest()->symbol_offset : 0;
  const std::string text = monitor::crash_report(
      {headline, state, model_, machine_->memory_space(), past, symbol_tables(), vcpu.instructions(), symbol_offset});
  session_.flush_output();
  std::fputs(text.c_str(), stderr);
}

void Launch::handle(const MachineEvent& event) {
  if (gdb_ && gdb_->take(event)) return;
  switch (event.kind) {
    case MachineEvent::Kind::power_off:
      // husk's program gives up so if it cannot even speak to husk; its reason is on the console.
      return session_.end(
          {.kind = command_ && !command_->channel().started() ? Ending::Kind::not_set_up : Ending::Kind::power_off});
    case MachineEvent::Kind::reset: return session_.end({.kind = Ending::Kind::reset});
    case MachineEvent::Kind::guest_panic: return session_.end({.kind = Ending::Kind::guest_panic});
    case MachineEvent::Kind::debug_exit:
      return session_.end({.kind = Ending::Kind::debug_exit, .status = event.status});
    case MachineEvent::Kind::triple_fault:
      report(event, fmt::format("CPU {}: triple fault", event.vcpu));
      return session_.end({.kind = Ending::Kind::triple_fault});
    case MachineEvent::Kind::stuck:
      // QEMU's users see such a machine stand still, and end it themselves.
      if (options_.dialect == Dialect::qemu) return;
      report(event, fmt::format("CPU {}: halted with interrupts off, and nothing can wake it", event.vcpu));
      return session_.end({.kind = Ending::Kind::triple_fault});
    case MachineEvent::Kind::debug: return machine_->resume();  // the debugger left while the stop was on its way
    case MachineEvent::Kind::io_error:
      io_stopped_ = true;
      session_.log().error("{}; the machine stands still until husk gets SIGCONT (kill -CONT {})", event.cause,
                           ::getpid());
      return;
    case MachineEvent::Kind::failed:
      print_error(options_.program, event.error);
      return session_.end({.kind = Ending::Kind::failed});
  }
}

Ending Launch::run() {
  if (const auto early = session_.wait_for_clients()) return *early;
  session_.on_suspend(
      [this] {
        ran_before_suspend_ = machine_->running();
        machine_->pause();
        if (command_) command_->channel().suspend_terminal();
      },
      [this] {
        if (command_) command_->channel().resume_terminal();
        if (ran_before_suspend_) machine_->resume();
      });
  session_.on_continue([this] {
    if (std::exchange(io_stopped_, false)) machine_->resume();
  });
  if (!config_.start_paused)
    machine_->resume();
  else if (!gdb_)
    session_.log().warning("the CPUs stand still, and nothing can start them; add -s or -gdb");
  const Ending ending = session_.run();
  machine_->pause();
  if (command_) command_->channel().restore_terminal();
  explain(ending);
  sampling_ = {};
  if (config_.debug_log.statistics) show_statistics();
  gdb_.reset();
  // The machine's devices use the session's character devices, and its CPUs the trace.
  machine_.reset();
  return ending;
}

}  // namespace

int launch(const MachineConfig& config, const LaunchOptions& options) {
  Ending ending;
  {
    const auto session = Session::create(config, options);
    if (!session) {
      print_error(options.program, session.error());
      return usage_status(options.dialect);
    }
    Launch launch(config, options, **session);
    if (const auto ready = launch.prepare(); !ready) {
      print_error(options.program, ready.error());
      return usage_status(options.dialect);
    }
    ending = launch.run();
  }
  const bool expected = options.dialect == Dialect::command
                            ? ending.kind == Ending::Kind::command
                            : ending.kind == Ending::Kind::power_off || ending.kind == Ending::Kind::user_quit;
  if (options.announce_ending && !expected) std::fprintf(stderr, "%s: %s\n", options.program, to_text(ending).c_str());
  // Only now, with the terminal given back: a signal ends the process in here.
  return conclude(ending, options.dialect);
}

}  // namespace husk::app
