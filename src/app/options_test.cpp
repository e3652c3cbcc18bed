// husk: tests of the command lines: QEMU's syntax, husk run's own, and what each refuses
#include <gtest/gtest.h>

#include <fstream>
#include <set>
#include <sstream>

#include "app/exit_status.h"
#include "app/qemu_options.h"
#include "app/run_command.h"

namespace husk::app {
namespace {

using machine::MachineConfig;

Result<QemuRequest> qemu(std::vector<std::string> arguments) { return parse_qemu_options(arguments); }
MachineConfig machine_of(std::vector<std::string> arguments) {
  arguments.insert(arguments.end(), {"-display", "none"});
  auto request = qemu(std::move(arguments));
  EXPECT_TRUE(request) << request.error().text();
  return request && request->machine ? *request->machine : MachineConfig{};
}
std::string error_of(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), {"-display", "none", "-kernel", "/k"});
  const auto request = qemu(std::move(arguments));
  return request ? "" : request.error().text();
}

TEST(QemuOptions, EverythingAtOnce) {
  const MachineConfig config = machine_of({"-M",
                                           "micro,accel=kvm:tcg",
                                           "-cpu",
                                           "max,+avx2,-sse4.2,rdrand=off",
                                           "-m",
                                           "2G",
                                           "-smp",
                                           "4,sockets=2",
                                           "-kernel",
                                           "/k",
                                           "-initrd",
                                           "/i",
                                           "-append",
                                           "console=ttyS0 quiet",
                                           "-nodefaults",
                                           "-no-user-config",
                                           "-no-reboot",
                                           "-serial",
                                           "file:/tmp/log",
                                           "-serial",
                                           "none",
                                           "-serial",
                                           "tcp::4000,server=on,wait=off",
                                           "-S",
                                           "-s",
                                           "-pidfile",
                                           "/p",
                                           "-name",
                                           "guest,debug-threads=on",
                                           "-d",
                                           "int,cpu",
                                           "-D",
                                           "/l",
                                           "-vga",
                                           "none",
                                           "-monitor",
                                           "none",
                                           "-rtc",
                                           "base=2006-06-17,clock=vm"});
  using machine::AcceleratorKind;
  EXPECT_EQ(config.accelerators, (std::vector{AcceleratorKind::kvm, AcceleratorKind::jit}));
  EXPECT_EQ(config.cpu.model, "max");
  EXPECT_EQ(machine::edits_text(config.cpu.edits), "+avx2,-sse4.2,-rdrand");
  EXPECT_EQ(config.memory_bytes, std::uint64_t{2} << 30);
  EXPECT_EQ(config.cpu.topology, (machine::TopologyConfig{4, 2, 2, 1}));
  EXPECT_EQ(config.boot.kernel, "/k");
  EXPECT_EQ(config.boot.initrd, "/i");
  EXPECT_EQ(config.boot.append, "console=ttyS0 quiet");
  EXPECT_TRUE(config.no_reboot);
  EXPECT_EQ(config.serials, (std::vector<std::string>{"serial0", "", "serial2"}));
  ASSERT_EQ(config.chardevs.size(), 2u);
  EXPECT_EQ(config.chardevs[0].kind, chardev::Kind(chardev::FileSpec{.path = "/tmp/log"}));
  EXPECT_EQ(config.chardevs[1].kind,
            chardev::Kind(chardev::SocketSpec{.address = host::TcpAddress{"", 4000}, .server = true, .wait = false}));
  EXPECT_TRUE(config.start_paused);
  EXPECT_EQ(config.gdb, host::SocketAddress(host::TcpAddress{"127.0.0.1", 1234}));
  EXPECT_EQ(config.pid_file, "/p");
  EXPECT_EQ(config.name, "guest");
  EXPECT_EQ(config.debug_log.trace, 3u | static_cast<unsigned>(machine::TraceCategory::exec));
  EXPECT_TRUE(config.debug_log.registers);
  EXPECT_EQ(config.debug_log.file, "/l");
  EXPECT_EQ(config.rtc.base, machine::RtcConfig::Base::date);
  EXPECT_EQ(config.rtc.clock, machine::RtcConfig::Clock::vm);
}

TEST(QemuOptions, NographicPutsTheSerialPortOnTheTerminalBehindTheMultiplexer) {
  const auto request = qemu({"-nographic", "-kernel", "/k"});
  ASSERT_TRUE(request) << request.error().text();
  const MachineConfig& config = *request->machine;
  EXPECT_EQ(config.serials, std::vector<std::string>{"serial0"});
  EXPECT_EQ(config.chardevs[0].kind, chardev::Kind(chardev::StdioSpec{.signals = false}));
  EXPECT_TRUE(config.chardevs[0].mux);
  EXPECT_EQ(config.memory_bytes, 128u << 20) << "QEMU's default";
}

TEST(QemuOptions, SerialStdioKeepsCtrlCUnlessNographic) {
  const auto signals = [](std::vector<std::string> arguments) {
    arguments.insert(arguments.end(), {"-kernel", "/k", "-serial", "stdio"});
    return std::get<chardev::StdioSpec>(qemu(arguments)->machine->chardevs[0].kind).signals;
  };
  EXPECT_TRUE(signals({"-display", "none"}));
  EXPECT_FALSE(signals({"-nographic"}));
}

TEST(QemuOptions, NodefaultsLeavesTheSerialPortOut) {
  EXPECT_TRUE(machine_of({"-kernel", "/k", "-nodefaults"}).serials.empty());
  EXPECT_EQ(machine_of({"-kernel", "/k"}).serials.size(), 1u);
}

TEST(QemuOptions, WhatIsNoFeatureKeepsItsValue) {
  const MachineConfig config = machine_of(
      {"-kernel", "/k", "-cpu", "Haswell,+rdseed,vendor=AuthenticAMD,phys-bits=39,model-id=A name,level=0x1f"});
  EXPECT_EQ(machine::edits_text(config.cpu.edits),
            "+rdseed,vendor=AuthenticAMD,phys-bits=39,model-id=A name,level=0x1f");
}

TEST(QemuOptions, CheckIsOnForANamedModelAndEnforceIsStronger) {
  using machine::MissingFeatures;
  const auto missing = [](const char* cpu) { return machine_of({"-kernel", "/k", "-cpu", cpu}).cpu.missing; };
  EXPECT_EQ(machine_of({"-kernel", "/k"}).cpu.missing, MissingFeatures::leave_out) << "nobody asked for qemu64";
  EXPECT_EQ(missing("EPYC"), MissingFeatures::warn);
  EXPECT_EQ(missing("EPYC,check"), MissingFeatures::warn);
  EXPECT_EQ(missing("EPYC,check=off"), MissingFeatures::leave_out);
  EXPECT_EQ(missing("EPYC,enforce"), MissingFeatures::refuse);
  EXPECT_EQ(missing("EPYC,enforce=on,check=off"), MissingFeatures::refuse);
  EXPECT_EQ(missing("EPYC,enforce=off"), MissingFeatures::warn);
}

TEST(QemuOptions, TestProgramsDevices) {
  const MachineConfig config = machine_of({"-kernel", "/k", "-chardev", "file,path=/tmp/a,,b,id=log,append=on",
                                           "-device", "isa-debug-exit,iobase=0xf4,iosize=0x4", "-device",
                                           "isa-debugcon,iobase=0x402,chardev=log", "-device", "pc-testdev,id=x"});
  ASSERT_EQ(config.devices.size(), 3u);
  EXPECT_EQ(config.devices[0], machine::DeviceConfig(machine::DebugExitConfig{.iobase = 0xf4, .iosize = 4}));
  EXPECT_EQ(config.devices[1], machine::DeviceConfig(machine::DebugConsoleConfig{.iobase = 0x402, .chardev = "log"}));
  EXPECT_EQ(config.chardevs[0].kind, chardev::Kind(chardev::FileSpec{.path = "/tmp/a,b", .append = true}));
  EXPECT_EQ(machine_of({"-kernel", "/k", "-device", "isa-debug-exit"}).devices[0],
            machine::DeviceConfig(machine::DebugExitConfig{.iobase = 0x501, .iosize = 2}))
      << "QEMU's defaults";
  EXPECT_EQ(machine_of({"-kernel", "/k", "-debugcon", "null"}).devices[0],
            machine::DeviceConfig(machine::DebugConsoleConfig{.iobase = 0xe9, .chardev = "debugcon0"}));
}

TEST(QemuOptions, PciTestDevices) {
  const MachineConfig config =
      machine_of({"-kernel", "/k", "-device", "edu", "-device", "edu,dma_mask=0xffffffff,addr=5", "-device",
                  "pci-testdev", "-device", "pci-testdev,membar=8G,id=t"});
  ASSERT_EQ(config.devices.size(), 4u);
  EXPECT_EQ(config.devices[0], machine::DeviceConfig(machine::EduConfig{.dma_mask = 0xFFFFFFF})) << "QEMU's default";
  EXPECT_EQ(config.devices[1],
            machine::DeviceConfig(machine::EduConfig{.place = {.address = 5}, .dma_mask = 0xFFFFFFFF}));
  EXPECT_EQ(config.devices[2], machine::DeviceConfig(machine::PciTestDeviceConfig{}));
  EXPECT_EQ(config.devices[3], machine::DeviceConfig(machine::PciTestDeviceConfig{
                                   .place = {.id = "t"}, .memory_bar = std::uint64_t{8} << 30}));
  EXPECT_EQ(error_of({"-device", "pci-testdev,membar=3M"}),
            "-device pci-testdev,membar=3M: pci-testdev cannot have membar=3M; give a power of two of at least 16");
  EXPECT_EQ(error_of({"-device", "edu,mask=1"}),
            "-device edu,mask=1: edu has no property 'mask'; it has id, bus, addr, dma_mask");
}

TEST(QemuOptions, ChardevsInAllForms) {
  const MachineConfig config = machine_of(
      {"-kernel", "/k", "-chardev", "socket,id=a,path=/s,server=on,wait=off,logfile=/log", "-chardev",
       "socket,id=b,host=::1,port=22,nodelay,telnet=on,server", "-chardev", "stdio,id=c,signal=off,mux=on", "-chardev",
       "ringbuf,id=d,size=4K", "-chardev", "pipe,id=e,path=/p", "-serial", "chardev:c", "-serial", "chardev:c"});
  EXPECT_EQ(config.chardevs[0].kind,
            chardev::Kind(chardev::SocketSpec{.address = host::UnixAddress{"/s"}, .server = true, .wait = false}));
  EXPECT_EQ(config.chardevs[0].log_path, "/log");
  EXPECT_EQ(config.chardevs[1].kind,
            chardev::Kind(chardev::SocketSpec{
                .address = host::TcpAddress{"::1", 22}, .server = true, .no_delay = true, .telnet = true}));
  EXPECT_TRUE(config.chardevs[2].mux);
  EXPECT_EQ(config.chardevs[3].kind, chardev::Kind(chardev::RingSpec{4096}));
  EXPECT_EQ(config.serials, (std::vector<std::string>{"c", "c"}));
}

TEST(QemuOptions, MultibootModulesAreSplitAndTheirArgumentsKept) {
  const MachineConfig config = machine_of({"-kernel", "/k", "-initrd", "/a one two=2,/b,,c,/d"});
  EXPECT_EQ(config.boot.initrd, "/a one two=2,/b,,c,/d");
  EXPECT_EQ(config.boot.modules, (std::vector<machine::ModuleConfig>{{"/a", "one two=2"}, {"/b,c", ""}, {"/d", ""}}));
}

TEST(QemuOptions, TwoDashesAreAsGoodAsOne) { EXPECT_EQ(machine_of({"--kernel", "/x"}).boot.kernel, "/x"); }

TEST(QemuOptions, HelpComesAtOnceWhateverFollows) {
  using Print = QemuRequest::Print;
  for (const auto& [arguments, print] :
       std::vector<std::pair<std::vector<std::string>, Print>>{{{"-help"}, Print::help},
                                                               {{"--help", "-nonsense"}, Print::help},
                                                               {{"-version"}, Print::version},
                                                               {{"-machine", "help"}, Print::machines},
                                                               {{"-M", "?"}, Print::machines},
                                                               {{"-cpu", "help"}, Print::cpus},
                                                               {{"-accel", "help"}, Print::accelerators},
                                                               {{"-device", "help"}, Print::devices},
                                                               {{"-chardev", "help"}, Print::chardevs},
                                                               {{"-d", "help"}, Print::log_items}}) {
    const auto request = qemu(arguments);
    ASSERT_TRUE(request) << arguments[0];
    EXPECT_EQ(request->print, print) << arguments[0];
    EXPECT_FALSE(request->machine);
  }
}

TEST(QemuOptions, UnknownNamesAreRefusedWithTheNearest) {
  EXPECT_EQ(error_of({"-kernle", "/k"}),
            "husk has no option '-kernle'; the nearest one it has is -kernel; 'husk qemu -help' lists all");
  EXPECT_EQ(error_of({"-hda", "x"}),
            "option '-hda': husk does not have disks this way; the nearest option it has is -drive; 'husk qemu -help' "
            "lists all");
  EXPECT_EQ(error_of({"-device", "isa-debugexit"}),
            "-device isa-debugexit: there is no device 'isa-debugexit' (did you mean 'isa-debug-exit'?); -device has "
            "isa-debug-exit, isa-debugcon, pc-testdev, edu, pci-testdev and virtio devices; 'husk qemu -device help' "
            "lists them");
  EXPECT_EQ(error_of({"-device", "isa-debug-exit,iobse=1"}),
            "-device isa-debug-exit,iobse=1: isa-debug-exit has no property 'iobse' (did you mean 'iobase'?); it has "
            "iobase, iosize, id");
  EXPECT_EQ(error_of({"-machine", "q35"}),
            "-machine q35: there is no machine 'q35'; husk has 'micro', which is also the default");
  EXPECT_EQ(error_of({"-accel", "tgc"}),
            "-accel tgc: there is no accelerator 'tgc' (did you mean 'tcg'?); choose kvm, or "
            "jit (also called tcg and soft: husk's own CPU), or interp (the same CPU without translation)");
}

struct Malformed {
  std::vector<std::string> arguments;
  std::string_view cause;
};
class QemuMalformed : public ::testing::TestWithParam<Malformed> {};
TEST_P(QemuMalformed, IsRefusedWithItsCauseAndANextStep) {
  const std::string text = error_of(GetParam().arguments);
  EXPECT_NE(text.find(GetParam().cause), std::string::npos) << text;
  EXPECT_EQ(text.find('\n'), std::string::npos) << "one message";
}
INSTANTIATE_TEST_SUITE_P(
    All, QemuMalformed,
    ::testing::Values(
        Malformed{{"disk.img"}, "'disk.img' would be a disk image"}, Malformed{{"-"}, "'-' would be"},
        Malformed{{"-m"}, "option '-m' lacks its value; write -m [size=]MEBIBYTES"},
        Malformed{{"-m", ""}, "-m: no size is given"}, Malformed{{"-m", "12X"}, "'12X' is not a size"},
        Malformed{{"-m", "0"}, "0 bytes of memory"}, Malformed{{"-m", "1G,slots=2"}, "memory hotplug"},
        Malformed{{"-m", "1G,fast=on"}, "has no property 'fast'"}, Malformed{{"-m", "size=-1"}, "'-1' is not a size"},
        Malformed{{"-smp", "0"}, "cpus=0"}, Malformed{{"-smp", "x"}, "'x' is not a number"},
        Malformed{{"-smp", "3,sockets=2"}, "3 CPUs are not 2 sockets"}, Malformed{{"-smp", "256"}, "more than the 255"},
        Malformed{{"-smp", "4294967297"}, "too large"}, Malformed{{"-smp", "2,maxcpus=4"}, "CPU hotplug"},
        Malformed{{"-smp", "2,dies=2"}, "cannot have dies=2"},
        Malformed{{"-smp", "2,sokets=2"}, "(did you mean 'sockets'?)"}, Malformed{{"-cpu", ""}, "empty part"},
        Malformed{{"-cpu", "+avx"}, "'+avx' is not a CPU model"}, Malformed{{"-cpu", "max,"}, "empty part"},
        Malformed{{"-cpu", "max,+"}, "lacks a feature's name"},
        Malformed{{"-cpu", "max,lbr-fmt=7"}, "the CPU cannot have lbr-fmt=7"},
        Malformed{{"-cpu", "max,vendor"}, "the CPU's vendor has no value"},
        Malformed{{"-cpu", "max,phys-bits="}, "the CPU's phys-bits has no value"},
        Malformed{{"-machine", "micro,usb=on"}, "cannot have usb=on"},
        Malformed{{"-machine", "micro,accel=hvf"}, "there is no accelerator 'hvf'"},
        Malformed{{"-machine", "micro,kernel-irqchip=sometimes"}, "kernel-irqchip: 'sometimes' is no place"},
        Malformed{{"-accel", "tcg,kernel-irqchip=on"}, "no property 'kernel-irqchip'"},
        Malformed{{"-global", "kvm-pit.lost_tick_policy=merge"}, "'merge' is no policy"},
        Malformed{{"-global", "isa-fdc.fallback=144"}, "no property 'isa-fdc.fallback'"},
        Malformed{{"-global", "driver=isa-fdc,property=fallback,value=144"}, "no global property isa-fdc.fallback"},
        Malformed{{"-accel", "tcg,thread=single"}, "cannot have thread=single"},
        Malformed{{"-accel", ""}, "there is no accelerator ''"},
        Malformed{{"-bios", "/b"}, "a kernel and a firmware image"},
        Malformed{{"-initrd", ""}, "the initrd has no path"},
        Malformed{{"-serial", "stdoi"}, "(did you mean 'stdio'?)"},
        Malformed{{"-serial", "chardev:x"}, "serial port 0 wants the character device 'x', which is not there"},
        Malformed{{"-serial", "tcp:host:0"}, "port 0"},
        Malformed{{"-serial", "unix:/s,sever"}, "(did you mean 'server'?)"},
        Malformed{{"-serial", "null", "-serial", "null", "-serial", "null", "-serial", "null", "-serial", "null"},
                  "5 serial ports"},
        Malformed{{"-chardev", "stdio"}, "-chardev stdio has no id"},
        Malformed{{"-chardev", "stdoi,id=a"}, "(did you mean 'stdio'?)"},
        Malformed{{"-chardev", "file,id=a"}, "character device 'a' has no path"},
        Malformed{{"-chardev", "socket,id=a"}, "has no address"},
        Malformed{{"-chardev", "socket,id=a,path=/s,port=1"}, "both a path and a TCP address"},
        Malformed{{"-chardev", "socket,id=a,port=x"}, "'x' is not a TCP port"},
        Malformed{{"-chardev", "socket,id=a,path=/s,server=maybe"}, "'maybe' is neither on nor off"},
        Malformed{{"-chardev", "null,id=a", "-chardev", "null,id=a"}, "two character devices have the id 'a'"},
        Malformed{{"-chardev", "null,id=a,path=/x"}, "character device 'a' has no property 'path'"},
        Malformed{{"-chardev", "null,id=a", "-serial", "chardev:a", "-device", "isa-debugcon,chardev=a"},
                  "both want the character device 'a'"},
        Malformed{{"-device", "isa-debugcon"}, "isa-debugcon has no character device"},
        Malformed{{"-device", "isa-debugcon,chardev=x"}, "which is not there"},
        Malformed{{"-device", "isa-debug-exit,iobase=0x10000"}, "too large"},
        Malformed{{"-device", "isa-debug-exit,iosize=3"}, "iosize=3"},
        Malformed{{"-device", "isa-debug-exit,iobase=zero"}, "'zero' is not a number"},
        Malformed{{"-device", "isa-debug-exit,iobase=0x20"}, "covers ports of the interrupt controller"},
        Malformed{{"-device", ""}, "there is no device ''"},
        Malformed{{"-device", "e1000"}, "there is no device 'e1000'"},
        Malformed{{"-display", "gtk"}, "there is no display 'gtk'"}, Malformed{{"-vga", "std"}, "'std' is not there"},
        Malformed{{"-monitor", "stdio"}, "the monitor on 'stdio' is not there"},
        Malformed{{"-nic", "tap"}, "no script of its own"}, Malformed{{"-gdb", "tcp::x"}, "'x' is not a TCP port"},
        Malformed{{"-gdb", "stdio"}, "not a TCP port"},
        Malformed{{"-rtc", "base=yesterday"}, "'yesterday' is not a date"},
        Malformed{{"-rtc", "clock=sun"}, "no clock 'sun'"},
        Malformed{{"-rtc", "driftfix=slew"}, "cannot have driftfix=slew"},
        Malformed{{"-rtc", "utc"}, "no property 'utc'"}, Malformed{{"-d", "op_opt"}, "there is no log item 'op_opt'"},
        Malformed{{"-d", "int,"}, "there is no log item ''"},
        Malformed{{"-action", "reboot=explode"}, "cannot do 'explode'"},
        Malformed{{"-sandbox", "on"}, "'on' is not there"},
        Malformed{{"-serial", std::string("file:/a\0b", 9)}, "NUL byte"},
        Malformed{{"-name", "a,process=b"}, "'process'"}));

TEST(QemuOptions, WithoutADisplayChoiceItSaysWhatToAdd) {
  const auto request = qemu({"-kernel", "/k"});
  ASSERT_FALSE(request);
  EXPECT_NE(request.error().next_step.find("-nographic"), std::string::npos);
}

TEST(QemuOptions, NothingToBootIsRefused) {
  const auto request = qemu({"-nographic"});
  ASSERT_FALSE(request);
  EXPECT_EQ(request.error().message, "there is nothing to boot");
}

// husk run

RunDefaults found() { return {.kernel = "/boot/vmlinuz-1", .busybox = "/bin/busybox", .rows_columns = {{24, 80}}}; }
Result<RunRequest> run(std::vector<std::string> arguments, RunDefaults (*defaults)() = found) {
  return parse_run_options(arguments, defaults);
}
MachineConfig run_machine(std::vector<std::string> arguments) {
  const auto request = run(std::move(arguments));
  EXPECT_TRUE(request) << request.error().text();
  return request && request->machine ? *request->machine : MachineConfig{};
}
std::string run_error(std::vector<std::string> arguments) {
  const auto request = run(std::move(arguments));
  return request ? "" : request.error().text();
}

TEST(RunOptions, AloneBootsTheDefaultKernelToAShellOnTheTerminal) {
  const MachineConfig config = run_machine({});
  EXPECT_EQ(config.boot.kernel, "/boot/vmlinuz-1");
  EXPECT_EQ(config.boot.builtin_initramfs_busybox, "/bin/busybox");
  EXPECT_EQ(config.boot.append, "console=ttyS0 husk.rows=24 husk.cols=80");
  EXPECT_EQ(config.memory_bytes, std::uint64_t{1} << 30);
  EXPECT_EQ(config.cpu.topology.count, 1u);
  EXPECT_EQ(config.cpu.model, "max");
  ASSERT_EQ(config.chardevs.size(), 1u);
  EXPECT_EQ(config.chardevs[0].kind, chardev::Kind(chardev::StdioSpec{.signals = false}));
  EXPECT_TRUE(config.chardevs[0].mux);
  EXPECT_TRUE(config.accelerators.empty()) << "husk chooses";
}

TEST(RunOptions, EverythingAtOnce) {
  const MachineConfig config = run_machine({"/k",
                                            "-m",
                                            "512M",
                                            "--cpus",
                                            "2",
                                            "--cpu",
                                            "max,-avx",
                                            "--accel",
                                            "kvm,soft",
                                            "--initrd",
                                            "/i",
                                            "--append",
                                            "quiet",
                                            "--console",
                                            "null",
                                            "--serial",
                                            "pty",
                                            "--device",
                                            "isa-debug-exit",
                                            "--gdb",
                                            "1234",
                                            "--paused",
                                            "--no-reboot",
                                            "--rtc",
                                            "localtime",
                                            "--rtc-clock=vm",
                                            "--timeout",
                                            "1.5m",
                                            "--pidfile",
                                            "/p",
                                            "--name",
                                            "n",
                                            "--trace",
                                            "io,msr",
                                            "--log",
                                            "/l",
                                            "--guest-decompress",
                                            "--guest-errors"});
  EXPECT_EQ(config.boot.kernel, "/k");
  EXPECT_EQ(config.boot.initrd, "/i");
  EXPECT_EQ(config.boot.modules, std::vector<machine::ModuleConfig>{{"/i"}});
  EXPECT_EQ(config.boot.builtin_initramfs_busybox, "");
  EXPECT_EQ(config.boot.append, "console=ttyS0 quiet");
  EXPECT_TRUE(config.boot.guest_decompress);
  EXPECT_EQ(config.memory_bytes, 512u << 20);
  EXPECT_EQ(config.cpu.topology.count, 2u);
  EXPECT_EQ(config.accelerators.size(), 2u);
  EXPECT_EQ(config.serials.size(), 2u);
  EXPECT_EQ(config.timeout_ns, 90'000'000'000u);
  EXPECT_EQ(config.debug_log.trace, 12u);
  EXPECT_TRUE(config.start_paused);
  EXPECT_TRUE(config.no_reboot);
  EXPECT_EQ(config.rtc.base, machine::RtcConfig::Base::local_time);
}

TEST(RunOptions, AnOwnConsoleWordIsNotDoubled) {
  EXPECT_EQ(run_machine({"/k", "--no-initrd", "--append", "console=hvc0"}).boot.append, "console=hvc0");
  EXPECT_EQ(run_machine({"/k", "--no-initrd", "--append", "netconsole=x"}).boot.append, "console=ttyS0 netconsole=x");
  EXPECT_EQ(run_machine({"/k", "--no-initrd", "--console", "none"}).boot.append, "");
}

TEST(RunOptions, ExecRunsAScriptInTheSmallInitramfsOnly) {
  // printf 'echo hi' | base64
  EXPECT_NE(run_machine({"--exec", "echo hi"}).boot.append.find("husk.exec=ZWNobyBoaQ=="), std::string::npos);
  EXPECT_NE(run_error({"--exec", "x", "--initrd", "/i"}).find("leave --initrd"), std::string::npos);
}

TEST(RunOptions, ABiosNeedsNoKernel) {
  const MachineConfig config = run_machine({"--bios", "/b"});
  EXPECT_EQ(config.boot.firmware, "/b");
  EXPECT_EQ(config.boot.kernel, "");
}

TEST(RunOptions, AMissingKernelIsReportedOnlyIfOneIsNeeded) {
  const auto none = [] {
    return RunDefaults{.kernel = std::unexpected(Error{"there is no kernel in /boot", "give one"})};
  };
  const auto alone = run({}, none);
  ASSERT_FALSE(alone);
  EXPECT_EQ(alone.error().text(), "there is no kernel in /boot; give one");
  EXPECT_TRUE(run({"/k"}, none));
}

TEST(RunOptions, MistakesAreRefusedWithTheNearest) {
  EXPECT_EQ(run_error({"--memroy", "1G"}),
            "husk run has no option '--memroy'; the nearest one it has is --memory; 'husk run --help' lists all");
  EXPECT_EQ(run_error({"--intrd=/x"}),
            "husk run has no option '--intrd'; the nearest one it has is --initrd; 'husk run --help' lists all");
  EXPECT_EQ(run_error({"--smp", "2"}),
            "husk run has no option '--smp'; the nearest one it has is --cpus; 'husk qemu' takes QEMU's options");
  EXPECT_NE(run_error({"/k", "/k2"}).find("'/k2' is one argument too many"), std::string::npos);
  EXPECT_NE(run_error({"--memory"}).find("--memory"), std::string::npos);
  EXPECT_EQ(run_error({"-m", "lots"}),
            "--memory: 'lots' is not a size; give a number with K, M, G or T after it, such as 512M or 2G");
  EXPECT_NE(run_error({"--timeout", "soon"}).find("--timeout: 'soon' is not a time"), std::string::npos);
  EXPECT_NE(run_error({"--trace", "ios"}).find("(did you mean 'io'?)"), std::string::npos);
  EXPECT_EQ(run_error({"--initrd", ""}), "--initrd: its value is empty; give one, or leave the option out");
  EXPECT_EQ(run_error({"/k", "--no-initrd", "--append", ""}), "") << "no words for the kernel are none";
  EXPECT_NE(run_error({"--paused"}).find("add --gdb"), std::string::npos);
  EXPECT_NE(run_error({"--rtc-clock", "sun"}).find("no clock 'sun'"), std::string::npos);
  EXPECT_NE(run_error({"/k", "--bios", "/b"}).find("husk boots one or the other"), std::string::npos);
  EXPECT_NE(run_error({"--accel", "kvm,"}).find("--accel: there is no accelerator ''"), std::string::npos);
  EXPECT_NE(run_error({"--cpus", "0"}).find("cpus=0"), std::string::npos);
}

TEST(RunOptions, HelpIsPrintedAndNamesEveryOption) {
  const auto request = run({"--help"});
  ASSERT_TRUE(request);
  EXPECT_FALSE(request->machine);
  for (const std::string& name : run_option_names()) EXPECT_NE(request->print.find(name), std::string::npos) << name;
}

TEST(ExitStatus, TellsEveryEndingApartInRunAndIsQemusInQemu) {
  using Kind = Ending::Kind;
  std::set<int> seen;
  for (const Kind kind : {Kind::power_off, Kind::reset, Kind::guest_panic, Kind::triple_fault, Kind::time_out,
                          Kind::user_quit, Kind::failed}) {
    const int status = exit_status({.kind = kind}, Dialect::run);
    EXPECT_TRUE(seen.insert(status).second) << "two endings have status " << status;
    EXPECT_EQ(status % 2, 0) << "odd ones belong to isa-debug-exit";
    EXPECT_NE(status, kUsageError);
  }
  EXPECT_EQ(exit_status({.kind = Kind::power_off}, Dialect::run), 0);
  EXPECT_EQ(exit_status({.kind = Kind::reset}, Dialect::qemu), 0);
  EXPECT_EQ(exit_status({.kind = Kind::debug_exit, .status = 33}, Dialect::run), 33);
  EXPECT_EQ(exit_status({.kind = Kind::debug_exit, .status = 33}, Dialect::qemu), 33);
}

// The man page

/// The option names in the `.TP` entries of one section: words of the tag line that begin with a dash.
std::set<std::string> man_options(const std::string& section) {
  std::ifstream page(HUSK_MAN_PAGE);
  EXPECT_TRUE(page) << HUSK_MAN_PAGE;
  std::set<std::string> names;
  bool inside = false, tag = false;
  for (std::string line; std::getline(page, line);) {
    if (line.starts_with(".SH ")) {
      inside = line.find(section) != std::string::npos;
    } else if (line.starts_with(".TP")) {
      tag = inside;
    } else if (tag) {
      tag = false;
      std::string plain;
      for (std::size_t i = 0; i < line.size(); ++i) {
        if (line.compare(i, 2, "\\-") == 0) {
          plain += '-';
          ++i;
        } else if (line.compare(i, 2, "\\f") == 0) {
          plain += ' ';
          i += 2;
        } else {
          plain += line[i] == ',' || line[i] == '"' ? ' ' : line[i];
        }
      }
      std::istringstream words(plain);
      for (std::string word; words >> word;)
        if (word.size() > 1 && word[0] == '-') names.insert(word.substr(0, word.find('=')));
    }
  }
  return names;
}

TEST(ManPage, ListsExactlyTheOptionsOfHuskRun) {
  const auto names = run_option_names();
  std::set<std::string> expected(names.begin(), names.end());
  expected.insert({"-m", "-h"});
  EXPECT_EQ(man_options("RUN OPTIONS"), expected);
}

TEST(ManPage, ListsExactlyTheOptionsOfHuskQemu) {
  const auto names = qemu_option_names();
  EXPECT_EQ(man_options("QEMU OPTIONS"), std::set<std::string>(names.begin(), names.end()));
}

}  // namespace
}  // namespace husk::app
