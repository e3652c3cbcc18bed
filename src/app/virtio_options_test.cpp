// husk: tests of QEMU's options for virtio devices, disks and networks
#include <gtest/gtest.h>

#include "app/qemu_options.h"
#include "app/qemu_virtio.h"

namespace husk::app {
namespace {

using machine::MachineConfig;

Result<QemuRequest> parse(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), {"-display", "none", "-kernel", "/k"});
  return parse_qemu_options(arguments);
}
MachineConfig machine_of(std::vector<std::string> arguments) {
  auto request = parse(std::move(arguments));
  EXPECT_TRUE(request) << request.error().text();
  return request && request->machine ? *request->machine : MachineConfig{};
}
std::string error_of(std::vector<std::string> arguments) {
  const auto request = parse(std::move(arguments));
  return request ? "" : request.error().text();
}

TEST(VirtioOptions, ADriveIsADiskOrWaitsForItsDevice) {
  const MachineConfig alone =
      machine_of({"-drive", "file=/a,,b,format=qcow2,cache=none,readonly=on,snapshot=on,serial=X"});
  ASSERT_EQ(alone.drives.size(), 1u);
  EXPECT_EQ(alone.drives[0], (machine::DriveConfig{.id = "virtio0",
                                                   .file = "/a,b",
                                                   .format = "qcow2",
                                                   .cache = machine::CacheMode::none,
                                                   .read_only = true,
                                                   .snapshot = true}));
  const auto& disk = std::get<machine::VirtioBlkConfig>(alone.virtio.at(0));
  EXPECT_EQ(disk.drive, "virtio0");
  EXPECT_EQ(disk.serial, "X");
  const MachineConfig apart =
      machine_of({"-drive", "file=/a,if=none,id=d", "-device",
                  "virtio-blk-pci,drive=d,num-queues=2,queue-size=128,write-cache=off,addr=0x5"});
  ASSERT_EQ(apart.virtio.size(), 1u);
  const auto& device = std::get<machine::VirtioBlkConfig>(apart.virtio[0]);
  EXPECT_EQ(device.queues, 2u);
  EXPECT_EQ(device.queue_size, 128u);
  EXPECT_FALSE(device.writeback);
  EXPECT_EQ(device.place.address, 5u);
}

TEST(VirtioOptions, ABlockdevMayBeGivenFlatInPartsOrAsJson) {
  const machine::DriveConfig expected{.id = "d", .file = "/a", .format = "qcow2", .read_only = true};
  for (const std::vector<std::string>& arguments : {
           std::vector<std::string>{"-blockdev",
                                    "driver=qcow2,node-name=d,file.driver=file,file.filename=/a,read-only=on"},
           {"-blockdev", "driver=file,node-name=f,filename=/a", "-blockdev",
            "driver=qcow2,node-name=d,file=f,read-only=on"},
           {"-blockdev",
            R"({"driver":"qcow2","node-name":"d","read-only":true,"file":{"driver":"file","filename":"/a"}})"},
       }) {
    const MachineConfig config = machine_of(arguments);
    ASSERT_EQ(config.drives.size(), 1u);
    EXPECT_EQ(config.drives[0], expected);
  }
  EXPECT_EQ(machine_of({"-blockdev", R"({"driver":"raw","node-name":"d","file":{"driver":"file","filename":"/a,b"}})"})
                .drives.at(0)
                .file,
            "/a,b");
}

TEST(VirtioOptions, NetworksAndTheirForwards) {
  const MachineConfig config = machine_of(
      {"-netdev", "user,id=n,restrict=on,hostname=h,hostfwd=tcp::8022-:22,hostfwd=udp:127.0.0.1:53-10.0.2.15:53",
       "-device", "virtio-net-pci,netdev=n,mac=52:54:00:aa:bb:cc,host_mtu=9000"});
  ASSERT_EQ(config.netdevs.size(), 1u);
  EXPECT_TRUE(config.netdevs[0].restricted);
  EXPECT_EQ(config.netdevs[0].forwards,
            (std::vector<machine::HostForward>{{false, "", 8022, "", 22}, {true, "127.0.0.1", 53, "10.0.2.15", 53}}));
  const auto& card = std::get<machine::VirtioNetConfig>(config.virtio.at(0));
  EXPECT_EQ(card.mac, (std::array<std::uint8_t, 6>{0x52, 0x54, 0, 0xaa, 0xbb, 0xcc}));
  EXPECT_EQ(card.mtu, 9000u);
  EXPECT_EQ(machine_of({"-nic", "user"}).virtio.size(), 1u);
  EXPECT_EQ(machine_of({"-nic", "none"}).virtio.size(), 0u);
}

TEST(VirtioOptions, PortsAreNumberedAsTheyAreGiven) {
  const std::vector<std::string> two{"-device", "virtio-serial-pci,id=s", "-device", "virtio-serial-pci,id=t"};
  const auto with = [&](std::vector<std::string> more) {
    std::vector<std::string> all = two;
    all.insert(all.end(), {"-chardev", "null,id=a", "-chardev", "null,id=b"});
    all.insert(all.end(), more.begin(), more.end());
    return all;
  };
  const MachineConfig config =
      machine_of(with({"-device", "virtserialport,chardev=a,name=one,bus=s.0,nr=1", "-device",
                       "virtserialport,chardev=b,name=two,bus=s.0,nr=2", "-device", "virtconsole,chardev=a,nr=0"}));
  EXPECT_EQ(std::get<machine::VirtioConsoleConfig>(config.virtio.at(0)).ports.size(), 2u);
  EXPECT_EQ(std::get<machine::VirtioConsoleConfig>(config.virtio.at(1)).ports.size(), 1u) << "the last one";
  EXPECT_NE(error_of(with({"-device", "virtserialport,chardev=a,name=x,nr=5"})).find("this one is 1"),
            std::string::npos);
  EXPECT_NE(error_of(with({"-device", "virtserialport,chardev=a,name=x,bus=u.0"})).find("virtio-serial device 'u'"),
            std::string::npos);
}

struct Malformed {
  std::vector<std::string> arguments;
  std::string_view cause;
};
class VirtioMalformed : public ::testing::TestWithParam<Malformed> {};
TEST_P(VirtioMalformed, IsRefusedWithItsCause) {
  const std::string text = error_of(GetParam().arguments);
  EXPECT_NE(text.find(GetParam().cause), std::string::npos) << text;
  EXPECT_EQ(text.find('\n'), std::string::npos) << "one message";
}
INSTANTIATE_TEST_SUITE_P(
    All, VirtioMalformed,
    ::testing::Values(Malformed{{"-drive", "format=raw"}, "-drive has no file"},
                      Malformed{{"-drive", "file=/a,if=ide"}, "cannot have if=ide"},
                      Malformed{{"-drive", "file=/a,format=vmdk"}, "no image format 'vmdk'"},
                      Malformed{{"-drive", "file=/a,cache=always"}, "no cache mode 'always'"},
                      Malformed{{"-drive", "file=/a,index=3"}, "this one is 0"},
                      Malformed{{"-drive", "file=/a,fromat=raw"}, "(did you mean 'format'?)"},
                      Malformed{{"-blockdev", "node-name=d"}, "has no driver"},
                      Malformed{{"-blockdev", "driver=raw,file.driver=file,file.filename=/a"}, "has no node-name"},
                      Malformed{{"-blockdev", "driver=raw,node-name=d"}, "has no file"},
                      Malformed{{"-blockdev", "driver=raw,node-name=d,file=x"}, "there is no node 'x'"},
                      Malformed{{"-blockdev", "{"}, "not well-formed"},
                      Malformed{{"-blockdev", "[]"}, "no image format"},
                      Malformed{{"-blockdev", R"({"driver":["raw"]})"}, "a kind that is not understood"},
                      Malformed{{"-netdev", "tap,id=n"}, "there is no network 'tap'"},
                      Malformed{{"-netdev", "user"}, "has no id"},
                      Malformed{{"-netdev", "user,id=n,hostfwd=tcp:80"}, "no port forward"},
                      Malformed{{"-netdev", "user,id=n,hostfwd=tcp::0-:22"}, "no port forward"},
                      Malformed{{"-netdev", "user,id=n,hostfwd=tcp::80-:65536"}, "no port forward"},
                      Malformed{{"-nic", "user,mac=1:2"}, "no MAC address"},
                      Malformed{{"-nic", "user,mac=01:00:00:00:00:00"}, "multicast"},
                      Malformed{{"-nic", "user,model=e1000"}, "cannot have model=e1000"},
                      Malformed{{"-device", "virtio-blk-pci"}, "has no drive"},
                      Malformed{{"-device", "virtio-net-pci,rx_queue_size=512,tx_queue_size=256"}, "all of one size"},
                      Malformed{{"-device", "virtio-rng-pci,period=0"}, "period=0"},
                      Malformed{{"-device", "virtio-rng-pci,addr=1f"}, "no free PCI address"},
                      Malformed{{"-device", "virtio-rng-pci,addr=2.1"}, "no free PCI address"},
                      Malformed{{"-device", "virtserialport,name=x"}, "no virtio-serial device for this port"},
                      Malformed{{"-device", "virtio-fs-pci,fsdev=x,tag=t"}, "which is not there"},
                      Malformed{{"-device", "virtio-rgn-pci"}, "(did you mean 'virtio-rng-pci'?)"},
                      Malformed{{"-fsdev", "synth,id=a"}, "no file system driver 'synth'"},
                      Malformed{{"-fsdev", "local,id=a"}, "lacks its id or path"},
                      Malformed{{"-fsdev", "local,id=a,path=/,security_model=mapped"}, "security_model=mapped"},
                      Malformed{{"-object", "secret,id=s"}, "there is no object 'secret'"},
                      Malformed{{"-object", "rng-random,id=r,filename=/etc/passwd"}, "filename=/etc/passwd"}));

}  // namespace
}  // namespace husk::app
