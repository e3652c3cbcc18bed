// husk: tests of option values and of what a configuration must satisfy
#include "machine/config.h"

#include <gtest/gtest.h>

namespace husk::machine {
namespace {

TEST(ParseSize, TakesSuffixesFractionsAndTheUnit) {
  EXPECT_EQ(parse_size("512", 1 << 20).value(), 512u << 20);
  EXPECT_EQ(parse_size("512", 1).value(), 512u);
  EXPECT_EQ(parse_size("64K", 1).value(), 65536u);
  EXPECT_EQ(parse_size("2G", 1).value(), std::uint64_t{2} << 30);
  EXPECT_EQ(parse_size("2g", 1).value(), std::uint64_t{2} << 30);
  EXPECT_EQ(parse_size("2GiB", 1).value(), std::uint64_t{2} << 30);
  EXPECT_EQ(parse_size("2GB", 1).value(), std::uint64_t{2} << 30);
  EXPECT_EQ(parse_size("1.5M", 1).value(), 3u << 19);
  EXPECT_EQ(parse_size("1T", 1).value(), std::uint64_t{1} << 40);
  EXPECT_EQ(parse_size("4096B", 1 << 20).value(), 4096u);
}

TEST(ParseSize, RefusesWhatIsNotOne) {
  for (const char* text : {"", "G", "-1", "1X", "1GG", "1 G", "0x10", "1..5G", ".", "1Bi", "99999999999999999999",
                           "16777216T", "0.3", "1e3"})
    EXPECT_FALSE(parse_size(text, 1)) << text;
}

TEST(ParseNumber, KnowsThreeBasesAndItsLimit) {
  EXPECT_EQ(parse_number("501").value(), 501u);
  EXPECT_EQ(parse_number("0xf4").value(), 0xf4u);
  EXPECT_EQ(parse_number("010").value(), 8u) << "QEMU and C read octal";
  EXPECT_EQ(parse_number("0").value(), 0u);
  EXPECT_EQ(parse_number("18446744073709551615").value(), ~std::uint64_t{0});
  EXPECT_FALSE(parse_number("18446744073709551616"));
  EXPECT_FALSE(parse_number("256", 255));
  for (const char* text : {"", "0x", "-1", "+1", "1a", "08", "0x1g", " 1"}) EXPECT_FALSE(parse_number(text)) << text;
}

TEST(ParseDuration, TakesUnits) {
  EXPECT_EQ(parse_duration("30").value(), 30'000'000'000u);
  EXPECT_EQ(parse_duration("1.5s").value(), 1'500'000'000u);
  EXPECT_EQ(parse_duration("500ms").value(), 500'000'000u);
  EXPECT_EQ(parse_duration("2m").value(), 120'000'000'000u);
  for (const char* text : {"", "0", "s", "-1", "1d", "1e9", "99999999999999"})
    EXPECT_FALSE(parse_duration(text)) << text;
}

TEST(ParseTcp, TakesHostsAndBrackets) {
  EXPECT_EQ(parse_tcp("localhost:1234").value(), (host::TcpAddress{"localhost", 1234}));
  EXPECT_EQ(parse_tcp(":4000").value(), (host::TcpAddress{"", 4000}));
  EXPECT_EQ(parse_tcp("[::1]:22").value(), (host::TcpAddress{"::1", 22}));
  for (const char* text : {"", "1234", "host:", "host:x", "host:65536", "::1:22", "[::1]", "[::1]22"})
    EXPECT_FALSE(parse_tcp(text)) << text;
}

TEST(ParseGdb, ListensOnThisMachineOnlyUnlessTold) {
  EXPECT_EQ(parse_gdb("1234").value(), host::SocketAddress(host::TcpAddress{"127.0.0.1", 1234}));
  EXPECT_EQ(parse_gdb(":1234").value(), host::SocketAddress(host::TcpAddress{"127.0.0.1", 1234}));
  EXPECT_EQ(parse_gdb("tcp::1234").value(), host::SocketAddress(host::TcpAddress{"127.0.0.1", 1234}));
  EXPECT_EQ(parse_gdb("0.0.0.0:1").value(), host::SocketAddress(host::TcpAddress{"0.0.0.0", 1}));
  EXPECT_EQ(parse_gdb("unix:/tmp/g").value(), host::SocketAddress(host::UnixAddress{"/tmp/g"}));
  for (const char* text : {"", "unix:", "stdio", "tcp:", "host"}) EXPECT_FALSE(parse_gdb(text)) << text;
}

TEST(ParseRtc, KnowsTheForms) {
  EXPECT_EQ(parse_rtc_base("utc").value().base, RtcConfig::Base::utc);
  EXPECT_EQ(parse_rtc_base("localtime").value().base, RtcConfig::Base::local_time);
  // date -u -d 2006-06-17T16:01:21 +%s
  EXPECT_EQ(parse_rtc_base("2006-06-17T16:01:21").value().date_s, 1150560081);
  EXPECT_EQ(parse_rtc_base("2006-06-17").value().date_s, 1150502400);
  for (const char* text : {"", "UTC", "2006", "2006-13-01", "2006-06-17T", "2006-06-17T25:00:00", "1969-12-31",
                           "2300-01-01", "2006-06-17x"})
    EXPECT_FALSE(parse_rtc_base(text)) << text;
}

TEST(WallClockBase, FollowsTheHostOnlyForUtcOnTheHostsClock) {
  constexpr std::int64_t kNow = 1'700'000'000, kHour = 3600, kNs = 1'000'000'000;
  EXPECT_EQ(wall_clock_base({}, kNow, kHour), std::nullopt);
  EXPECT_EQ(wall_clock_base({.clock = RtcConfig::Clock::vm}, kNow, kHour), kNow * kNs);
  EXPECT_EQ(wall_clock_base({.base = RtcConfig::Base::local_time}, kNow, kHour), (kNow + kHour) * kNs);
  EXPECT_EQ(wall_clock_base({.base = RtcConfig::Base::date, .date_s = 5}, kNow, kHour), 5 * kNs);
}

TEST(ParseTrace, JoinsCategoriesAndSuggestsTheNearest) {
  EXPECT_EQ(parse_trace("io,msr").value(), 4u | 8u);
  EXPECT_EQ(parse_trace("all").value(), 63u);
  const auto wrong = parse_trace("exceptoins");
  ASSERT_FALSE(wrong);
  EXPECT_EQ(wrong.error().message, "there is no trace category 'exceptoins' (did you mean 'exceptions'?)");
  EXPECT_FALSE(parse_trace(""));
  EXPECT_FALSE(parse_trace("io,"));
}

TEST(Topology, CompletesCoresFirstAsQemuDoesSince62) {
  EXPECT_EQ(complete_topology(8, 0, 0, 0).value(), (TopologyConfig{8, 1, 8, 1}));
  EXPECT_EQ(complete_topology(8, 2, 0, 2).value(), (TopologyConfig{8, 2, 2, 2}));
  EXPECT_EQ(complete_topology(8, 0, 4, 0).value(), (TopologyConfig{8, 2, 4, 1}));
  EXPECT_EQ(complete_topology(8, 1, 4, 0).value(), (TopologyConfig{8, 1, 4, 2}));
  EXPECT_EQ(complete_topology(0, 2, 3, 0).value(), (TopologyConfig{6, 2, 3, 1}));
  EXPECT_FALSE(complete_topology(8, 3, 0, 0));
  EXPECT_FALSE(complete_topology(8, 2, 2, 1));
  EXPECT_FALSE(complete_topology(256, 0, 0, 0));
  EXPECT_FALSE(complete_topology(0, 255, 255, 255));
  EXPECT_FALSE(complete_topology(2, 4, 0, 0)) << "zero cores";
  EXPECT_FALSE(complete_topology(4294967295u, 4294967295u, 2, 2));
}

TEST(SplitOption, SeparatesAtSingleCommasOnly) {
  const auto parts = split_option("file,path=/a,,b=c,flag,x=");
  ASSERT_EQ(parts.size(), 4u);
  EXPECT_EQ(parts[0].key, "file");
  EXPECT_FALSE(parts[0].has_value);
  EXPECT_EQ(parts[1].key, "path");
  EXPECT_EQ(parts[1].value, "/a,b=c");
  EXPECT_EQ(parts[2].key, "flag");
  EXPECT_EQ(parts[3].key, "x");
  EXPECT_TRUE(parts[3].has_value);
  EXPECT_TRUE(split_option("").empty());
}

TEST(CharSource, KnowsQemusShortNames) {
  using namespace chardev;
  const auto kind = [](const char* text) { return parse_char_source(text).value().spec.value().kind; };
  EXPECT_EQ(kind("stdio"), Kind(StdioSpec{.signals = true}));
  EXPECT_EQ(kind("mon:stdio"), Kind(StdioSpec{.signals = false}));
  EXPECT_TRUE(parse_char_source("mon:stdio").value().spec->mux);
  EXPECT_EQ(kind("null"), Kind(NullSpec{}));
  EXPECT_EQ(kind("pty"), Kind(PtySpec{}));
  EXPECT_EQ(kind("file:/tmp/a,b"), Kind(FileSpec{.path = "/tmp/a,b"}));
  EXPECT_EQ(kind("pipe:/tmp/p"), Kind(PipeSpec{"/tmp/p"}));
  EXPECT_EQ(kind("ringbuf"), Kind(RingSpec{65536}));
  EXPECT_EQ(kind("unix:/s,server=on,wait=off"),
            Kind(SocketSpec{.address = host::UnixAddress{"/s"}, .server = true, .wait = false}));
  EXPECT_EQ(kind("unix:/s,server,nowait"),
            Kind(SocketSpec{.address = host::UnixAddress{"/s"}, .server = true, .wait = false}));
  EXPECT_EQ(kind("tcp:h:1,nodelay,reconnect=5"),
            Kind(SocketSpec{.address = host::TcpAddress{"h", 1}, .no_delay = true, .reconnect_s = 5}));
  EXPECT_EQ(kind("telnet::1,server"),
            Kind(SocketSpec{.address = host::TcpAddress{"", 1}, .server = true, .telnet = true}));
  EXPECT_FALSE(parse_char_source("none").value().spec);
  EXPECT_EQ(parse_char_source("chardev:x").value().existing, "x");
}

TEST(CharSource, RefusesWhatIsNotOneAndSaysWhatIs) {
  for (const char* text : {"",
                           "stdio:",
                           "stdoi",
                           "file:",
                           "file",
                           "unix:",
                           "tcp:1234",
                           "tcp:h:0",
                           "tcp:h:99999",
                           "unix:/s,sever",
                           "unix:/s,server=maybe",
                           "unix:/s,nodelay",
                           "unix:/s,server,reconnect=1",
                           "chardev:",
                           "mon:",
                           "mon:none",
                           "vc",
                           "udp:1",
                           "ringbuf:x",
                           "unix:/s,reconnect"})
    EXPECT_FALSE(parse_char_source(text)) << text;
  EXPECT_EQ(parse_char_source("stdoi").error().message, "there is no character device 'stdoi' (did you mean 'stdio'?)");
  EXPECT_EQ(parse_char_source("unix:/s,sever").error().message,
            "'unix:/s,sever': a unix device has no option 'sever' (did you mean 'server'?)");
}

TEST(Nearest, PrefersFewEditsAndKeepsQuietWhenNothingIsNear) {
  constexpr std::string_view kNames[] = {"kernel", "initrd", "append", "m", "smp", "serial"};
  EXPECT_EQ(nearest("kernle", kNames), "kernel");
  EXPECT_EQ(nearest("intird", kNames), "initrd");
  EXPECT_EQ(nearest("apend", kNames), "append");
  EXPECT_EQ(nearest("zzzzzzzz", kNames), std::nullopt);
  EXPECT_EQ(nearest("", kNames), std::nullopt);
}

struct ValidateTest : ::testing::Test {
  ValidateTest() {
    config.boot.kernel = "/k";
    config.chardevs = {{.id = "a", .kind = chardev::NullSpec{}}, {.id = "m", .kind = chardev::NullSpec{}, .mux = true}};
  }
  std::string message() const {
    const Status status = validate(config);
    return status ? "" : status.error().message;
  }
  MachineConfig config;
};

TEST_F(ValidateTest, AcceptsASensibleMachine) {
  config.serials = {"m", "", "m"};
  config.devices = {DebugExitConfig{.iobase = 0xf4, .iosize = 4}, DebugConsoleConfig{.chardev = "a"},
                    PcTestDeviceConfig{}};
  EXPECT_EQ(message(), "");
}

TEST_F(ValidateTest, RefusesEachMistakeByName) {
  config.serials = {"b"};
  EXPECT_EQ(message(), "serial port 0 wants the character device 'b', which is not there (did you mean 'a'?)");
  config.serials = {"a"};
  config.devices = {DebugConsoleConfig{.chardev = "a"}};
  EXPECT_EQ(message(), "serial port 0 and isa-debugcon both want the character device 'a'");
  config.serials = {};
  config.devices = {DebugExitConfig{.iobase = 0x60, .iosize = 4}};
  EXPECT_EQ(message(), "isa-debug-exit at port 0x60 covers ports of the keyboard controller at 0x60");
  config.devices = {DebugExitConfig{.iobase = 0xffff, .iosize = 2}};
  EXPECT_EQ(message(), "isa-debug-exit at port 0xffff reaches beyond the last port, 0xffff");
  config.devices = {DebugExitConfig{.iosize = 3}};
  EXPECT_EQ(message(), "isa-debug-exit cannot have iosize=3");
  config.devices = {DebugExitConfig{.iobase = 0x3f8, .iosize = 1}};
  EXPECT_EQ(message(), "") << "without COM1 its ports are free";
  config.devices = {PcTestDeviceConfig{}, PcTestDeviceConfig{}};
  EXPECT_EQ(message(), "there are two of pc-testdev, whose ports are fixed");
  config.devices = {};
  config.serials = {"m", "m", "m", "m", "m"};
  EXPECT_EQ(message(), "5 serial ports are more than the 4 of a PC");
  config.serials = {};
  config.memory_bytes = 1000;
  EXPECT_EQ(message(), "1000 bytes of memory are outside 1 MiB to 1 TiB");
  config.memory_bytes = (1 << 20) + 1;
  EXPECT_EQ(message(), "1048577 bytes of memory are not a whole number of 4 KiB pages");
  config.memory_bytes = 1 << 30;
  config.boot = {};
  EXPECT_EQ(message(), "there is nothing to boot");
  config.boot.firmware = "/f";
  EXPECT_EQ(message(), "");
  config.boot.append = "x";
  EXPECT_EQ(message(), "a kernel command line needs a kernel");
}

}  // namespace
}  // namespace husk::machine
