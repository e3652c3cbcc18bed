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
  const auto& user = std::get<machine::UserNetConfig>(config.netdevs[0].kind);
  EXPECT_TRUE(user.restricted);
  EXPECT_EQ(user.forwards,
            (std::vector<machine::HostForward>{{false, "", 8022, "", 22}, {true, "127.0.0.1", 53, "10.0.2.15", 53}}));
  const auto& card = std::get<machine::VirtioNetConfig>(config.virtio.at(0));
  EXPECT_EQ(card.mac, (std::array<std::uint8_t, 6>{0x52, 0x54, 0, 0xaa, 0xbb, 0xcc}));
  EXPECT_EQ(card.mtu, 9000u);
  EXPECT_EQ(machine_of({"-nic", "user"}).virtio.size(), 1u);
  EXPECT_EQ(machine_of({"-nic", "none"}).virtio.size(), 0u);
}

template <class Kind>
Kind network_of(const std::string& option) {
  const MachineConfig config = machine_of({"-netdev", option});
  return std::get<Kind>(config.netdevs.at(0).kind);
}

TEST(VirtioOptions, TapInterfaces) {
  using machine::TapConfig;
  EXPECT_EQ(network_of<TapConfig>("tap,id=n,ifname=tap3,script=no,downscript=no,vnet_hdr=off,queues=4"),
            (TapConfig{.interface = "tap3", .queues = 4, .offloads = false}));
  EXPECT_EQ(network_of<TapConfig>("tap,id=n,script=/up,downscript=/down,vhost=off"),
            (TapConfig{.script = "/up", .down_script = "/down"}));
  EXPECT_EQ(network_of<TapConfig>("tap,id=n,fds=7:8:9"), (TapConfig{.descriptors = {7, 8, 9}, .queues = 3}));
  EXPECT_EQ(network_of<TapConfig>("tap,id=n,fd=7"), (TapConfig{.descriptors = {7}}));
  // QEMU's documentation: -netdev bridge is tap with the helper on br0.
  const TapConfig bridge{.helper = "/usr/lib/qemu/qemu-bridge-helper", .bridge = "br0"};
  EXPECT_EQ(network_of<TapConfig>("bridge,id=n"), bridge);
  EXPECT_EQ(network_of<TapConfig>("tap,id=n,br=br0"), bridge);
  const MachineConfig card = machine_of({"-nic", "tap,queues=4,script=no"});
  EXPECT_TRUE(std::get<machine::VirtioNetConfig>(card.virtio.at(0)).multi_queue);
}

TEST(VirtioOptions, SocketNetworks) {
  using host::TcpAddress;
  using host::UnixAddress;
  using machine::DgramConfig;
  using machine::StreamConfig;
  EXPECT_EQ(network_of<StreamConfig>("stream,id=n,server=on,addr.type=inet,addr.host=::1,addr.port=80"),
            (StreamConfig{.address = TcpAddress{"::1", 80}, .server = true}));
  const StreamConfig unix_stream{.address = UnixAddress{"/s", true}, .reconnect_ns = 5'000'000'000};
  EXPECT_EQ(network_of<StreamConfig>("stream,id=n,addr.type=unix,addr.path=/s,addr.abstract=on,reconnect=5"),
            unix_stream);
  EXPECT_EQ(network_of<StreamConfig>(R"({"type":"stream","id":"n","reconnect-ms":5000,)"
                                     R"("addr":{"type":"unix","path":"/s","abstract":true}})"),
            unix_stream);
  EXPECT_EQ(network_of<StreamConfig>("stream,id=n,addr.type=fd,addr.str=9"), (StreamConfig{.descriptor = 9}));
  EXPECT_EQ(network_of<StreamConfig>("socket,id=n,listen=:1234"),
            (StreamConfig{.address = TcpAddress{"", 1234}, .server = true}));
  EXPECT_EQ(network_of<StreamConfig>("socket,id=n,connect=127.0.0.1:1234"),
            (StreamConfig{.address = TcpAddress{"127.0.0.1", 1234}}));
  EXPECT_EQ(network_of<DgramConfig>("dgram,id=n,local.type=unix,local.path=/a,remote.type=unix,remote.path=/b"),
            (DgramConfig{.local = UnixAddress{"/a"}, .remote = UnixAddress{"/b"}}));
  EXPECT_EQ(network_of<DgramConfig>("dgram,id=n,local.type=fd,local.str=9"), (DgramConfig{.descriptor = 9}));
  EXPECT_EQ(network_of<DgramConfig>("socket,id=n,udp=h:1,localaddr=:2"),
            (DgramConfig{.local = TcpAddress{"", 2}, .remote = TcpAddress{"h", 1}}));
  const DgramConfig group{.local = TcpAddress{"127.0.0.1"}, .remote = TcpAddress{"230.0.0.1", 1234}};
  EXPECT_EQ(network_of<DgramConfig>("socket,id=n,mcast=230.0.0.1:1234,localaddr=127.0.0.1"), group);
  EXPECT_EQ(network_of<DgramConfig>("dgram,id=n,remote.type=inet,remote.host=230.0.0.1,remote.port=1234,"
                                    "local.type=inet,local.host=127.0.0.1"),
            group);
}

TEST(VirtioOptions, ACardKeepsFeaturesBackByQemusNames) {
  const auto withheld = [](const std::string& properties) {
    const MachineConfig config = machine_of({"-device", "virtio-net-pci" + properties});
    return std::get<machine::VirtioNetConfig>(config.virtio.at(0)).withheld;
  };
  EXPECT_EQ(withheld(""), 0u);
  // Virtio 1.2, 5.1.3: CSUM 0, GUEST_CSUM 1, MRG_RXBUF 15, CTRL_VQ 17.
  EXPECT_EQ(withheld(",csum=off,guest_csum=off,mrg_rxbuf=off,ctrl_vq=off"), 0x28003u);
}

TEST(VirtioOptions, FramesAreWrittenToAFile) {
  const MachineConfig config =
      machine_of({"-object", "filter-dump,id=f,netdev=n,file=/x,maxlen=100", "-netdev", "user,id=n"});
  EXPECT_EQ(config.frame_dumps, (std::vector<machine::FrameDumpConfig>{{"f", "n", "/x", 100}}));
}

TEST(VirtioOptions, SocketsBetweenGuestAndHost) {
  const MachineConfig config = machine_of({"-device", "virtio-vsock-pci,guest-cid=7,path=/v,packed=on"});
  const auto& device = std::get<machine::VirtioVsockConfig>(config.virtio.at(0));
  EXPECT_EQ(device.guest_cid, 7u);
  EXPECT_EQ(device.path, "/v");
  EXPECT_TRUE(device.place.packed);
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
    ::testing::Values(
        Malformed{{"-drive", "format=raw"}, "-drive has no file"},
        Malformed{{"-drive", "file=/a,if=ide"}, "cannot have if=ide"},
        Malformed{{"-drive", "file=/a,format=vmdk"}, "no image format 'vmdk'"},
        Malformed{{"-drive", "file=/a,cache=always"}, "no cache mode 'always'"},
        Malformed{{"-drive", "file=/a,index=3"}, "this one is 0"},
        Malformed{{"-drive", "file=/a,fromat=raw"}, "(did you mean 'format'?)"},
        Malformed{{"-blockdev", "node-name=d"}, "has no driver"},
        Malformed{{"-blockdev", "driver=raw,file.driver=file,file.filename=/a"}, "has no node-name"},
        Malformed{{"-blockdev", "driver=raw,node-name=d"}, "has no file"},
        Malformed{{"-blockdev", "driver=raw,node-name=d,file=x"}, "there is no node 'x'"},
        Malformed{{"-blockdev", "{"}, "not well-formed"}, Malformed{{"-blockdev", "[]"}, "no image format"},
        Malformed{{"-blockdev", R"({"driver":["raw"]})"}, "a kind that is not understood"},
        Malformed{{"-netdev", "l2tpv3,id=n"}, "there is no network 'l2tpv3'"},
        Malformed{{"-netdev", "tap,id=n"}, "no script of its own"},
        Malformed{{"-netdev", "tap,id=n,script=no,vhost=on"}, "vhost"},
        Malformed{{"-netdev", "tap,id=n,fd=7,ifname=x"}, "more than one of"},
        Malformed{{"-netdev", "tap,id=n,fd=1"}, "no descriptor"},
        Malformed{{"-netdev", "tap,id=n,script=no,queues=0"}, "queues=0"},
        Malformed{{"-netdev", "stream,id=n"}, "has no address"},
        Malformed{{"-netdev", "stream,id=n,addr.type=unix"}, "has no path"},
        Malformed{{"-netdev", "stream,id=n,addr.type=inet,addr.port=x"}, "no port"},
        Malformed{{"-netdev", "stream,id=n,addr.type=vsock"}, "no kind of address"},
        Malformed{{"-netdev", "stream,id=n,addr.type=unix,addr.path=/s,server=on,reconnect=1"}, "reconnects only"},
        Malformed{{"-netdev", "dgram,id=n"}, "no local address"}, Malformed{{"-netdev", "socket,id=n"}, "exactly one"},
        Malformed{{"-netdev", "socket,id=n,listen=:1,connect=:2"}, "exactly one"},
        Malformed{{"-netdev", "socket,id=n,mcast=10.0.0.1:1"}, "no IPv4 multicast group"},
        Malformed{{"-netdev", "socket,id=n,udp=h:1"}, "needs localaddr"},
        Malformed{{"-netdev", "user,id=n", "-netdev", "user,id=n"}, "two networks 'n'"},
        Malformed{{"-object", "filter-dump,id=f,netdev=n,file=/x"}, "network 'n', which is not there"},
        Malformed{{"-object", "filter-dump,id=f,netdev=n"}, "lacks its id"},
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
        Malformed{{"-fsdev", "local,id=a,path=/", "-fsdev", "local,id=a,path=/"}, "two folders 'a'"},
        Malformed{{"-device", "virtio-9p-pci,fsdev=x,mount_tag=t"}, "which is not there"},
        Malformed{{"-virtfs", "local,path=/"}, "needs a mount_tag"},
        Malformed{{"-virtfs", "local,mount_tag=x"}, "lacks its path"},
        Malformed{{"-virtfs", "local,path=/,mount_tag=x,security_model=mapped-xattr"}, "security_model=mapped-xattr"},
        Malformed{{"-fsdev", "local,id=a,path=/,security_model=mapped"}, "security_model=mapped"},
        Malformed{{"-object", "secret,id=s"}, "there is no object 'secret'"},
        Malformed{{"-device", "virtio-pmem-pci,memdev=m"}, "which is not there"},
        Malformed{{"-object", "memory-backend-file,id=m,mem-path=/m,size=3M"}, "size=3145728"},
        Malformed{{"-object", "memory-backend-file,id=m,mem-path=/m"}, "size=0"},
        Malformed{{"-object", "memory-backend-file,id=m,size=2M"}, "lacks its id or mem-path"},
        Malformed{{"-object", "memory-backend-file,id=m,mem-path=/m,size=2M,readonly=on"}, "readonly=on"},
        Malformed{{"-object", "memory-backend-file,id=m,mem-path=/m,size=2M", "-device", "virtio-pmem-pci,memdev=m",
                   "-device", "virtio-pmem-pci,memdev=m"},
                  "two virtio-pmem devices"},
        Malformed{{"-object", "rng-random,id=r,filename=/etc/passwd"}, "filename=/etc/passwd"}));

TEST(VirtioOptions, PmemAndItsFile) {
  const MachineConfig config =
      machine_of({"-object", "memory-backend-file,id=m,mem-path=/srv/m,size=1G,share=on", "-object",
                  R"({"qom-type":"memory-backend-file","id":"n","mem-path":"/srv/n","size":2097152})", "-device",
                  "virtio-pmem-pci,memdev=m,id=p", "-device", "virtio-pmem-pci,memdev=n"});
  ASSERT_EQ(config.memory_files.size(), 2u);
  EXPECT_EQ(config.memory_files[0],
            (machine::MemoryFileConfig{.id = "m", .path = "/srv/m", .size = 1 << 30, .shared = true}));
  EXPECT_EQ(config.memory_files[1],
            (machine::MemoryFileConfig{.id = "n", .path = "/srv/n", .size = 2 << 20, .shared = false}));
  EXPECT_EQ(config.virtio[0], machine::VirtioConfig(machine::VirtioPmemConfig{.place = {.id = "p"}, .memory = "m"}));
}

TEST(VirtioOptions, NinepFolders) {
  const MachineConfig config = machine_of(
      {"-fsdev", "local,id=f,path=/srv,security_model=none,readonly=on,multidevs=remap", "-device",
       "virtio-9p-pci,fsdev=f,mount_tag=docs", "-virtfs", "local,path=/home,mount_tag=home,security_model=passthrough",
       "-virtfs", "local,path=/tmp,mount_tag=tmp,id=other,readonly=on"});
  ASSERT_EQ(config.folders.size(), 3u);
  EXPECT_EQ(config.folders[0], (machine::SharedFolder{.id = "f", .path = "/srv", .read_only = true}));
  EXPECT_EQ(config.folders[1], (machine::SharedFolder{.id = "home", .path = "/home"}));
  EXPECT_EQ(config.folders[2], (machine::SharedFolder{.id = "other", .path = "/tmp", .read_only = true}));
  EXPECT_EQ(config.virtio[0], machine::VirtioConfig(machine::Virtio9pConfig{.tag = "docs", .folder = "f"}));
  EXPECT_EQ(config.virtio[1], machine::VirtioConfig(machine::Virtio9pConfig{.tag = "home", .folder = "home"}));
  EXPECT_EQ(config.virtio[2], machine::VirtioConfig(machine::Virtio9pConfig{.tag = "tmp", .folder = "other"}));
}

TEST(VirtioOptions, ScsiUnitsAreOnTheirController) {
  const MachineConfig config = machine_of(
      {"-drive", "file=/a,if=none,id=a,werror=stop", "-drive", "file=/c,if=none,id=c,media=cdrom", "-device",
       "virtio-scsi-pci,id=s0,num_queues=2,virtqueue_size=128,packed=on", "-device", "virtio-scsi-pci,id=s1", "-device",
       "scsi-hd,bus=s0.0,drive=a,scsi-id=3,lun=2,serial=S,wwn=0x5000c50015ea71ac,vendor=V,product=P,ver=1,"
       "device_id=N,rotation_rate=1,logical_block_size=4096,discard_granularity=8192,removable=on,dpofua=off,"
       "write-cache=off,rerror=ignore",
       "-device", "scsi-cd,drive=c", "-device", "scsi-cd", "-device", "scsi-cd,scsi-id=0"});
  ASSERT_EQ(config.virtio.size(), 2u);
  const auto& first = std::get<machine::VirtioScsiConfig>(config.virtio[0]);
  EXPECT_EQ(first.queues, 2u);
  EXPECT_EQ(first.queue_size, 128u);
  EXPECT_TRUE(first.place.packed);
  ASSERT_EQ(first.units.size(), 1u);
  EXPECT_EQ(first.units[0], (machine::ScsiUnitConfig{.drive = "a",
                                                     .target = 3,
                                                     .lun = 2,
                                                     .vendor = "V",
                                                     .product = "P",
                                                     .revision = "1",
                                                     .serial = "S",
                                                     .name = "N",
                                                     .wwn = 0x5000c50015ea71ac,
                                                     .logical_block = 4096,
                                                     .physical_block = 4096,
                                                     .discard_granularity = 8192,
                                                     .rotation_rate = 1,
                                                     .removable = true,
                                                     .writeback = false,
                                                     .dpo_fua = false,
                                                     .errors = {.read = core::OnBlockError::ignore, .write = {}}}));
  EXPECT_EQ(config.drives[0].errors.write, core::OnBlockError::stop);
  EXPECT_TRUE(config.drives[1].read_only);
  const auto& second = std::get<machine::VirtioScsiConfig>(config.virtio[1]);
  ASSERT_EQ(second.units.size(), 3u);
  EXPECT_TRUE(second.units[0].cdrom);
  EXPECT_EQ(second.units[1].target, 1u) << "the first SCSI id that is free";
  EXPECT_EQ(second.units[2].lun, 1u) << "the first LUN that is free";
}

TEST(VirtioOptions, ScsiUnitsThatCannotBeAreRefused) {
  EXPECT_NE(error_of({"-device", "scsi-cd"}).find("no SCSI controller"), std::string::npos);
  EXPECT_NE(error_of({"-device", "virtio-scsi-pci", "-device", "scsi-cd,bus=x.0"}).find("'x'"), std::string::npos);
  EXPECT_NE(error_of({"-device", "virtio-scsi-pci", "-device", "scsi-hd"}).find("no drive"), std::string::npos);
  EXPECT_NE(error_of({"-device", "virtio-scsi-pci", "-device", "scsi-cd,scsi-id=1,lun=0", "-device",
                      "scsi-cd,scsi-id=1,lun=0"})
                .find("is taken"),
            std::string::npos);
  EXPECT_FALSE(error_of({"-device", "virtio-scsi-pci", "-device", "scsi-cd,scsi-id=256"}).empty());
  EXPECT_FALSE(error_of({"-device", "virtio-scsi-pci", "-device", "scsi-cd,lun=16384"}).empty());
  EXPECT_FALSE(error_of({"-device", "virtio-scsi-pci", "-device", "scsi-cd,wwn=xyz"}).empty());
  EXPECT_FALSE(error_of({"-device", "virtio-scsi-pci", "-device", "scsi-cd,rerror=enospc"}).empty());
  EXPECT_FALSE(error_of({"-device", "virtio-scsi-pci", "-device", "scsi-cd,werror=maybe"}).empty());
  EXPECT_FALSE(error_of({"-device", "virtio-scsi-pci,t10_pi=on"}).empty());
  EXPECT_NE(error_of({"-drive", "file=/a,if=scsi"}).find("scsi-hd"), std::string::npos);
  EXPECT_NE(error_of({"-drive", "file=/a,media=cdrom"}).find("scsi-cd"), std::string::npos);
}

TEST(VirtioOptions, BlkdebugInjectsErrors) {
  const MachineConfig config = machine_of(
      {"-blockdev", "driver=raw,node-name=f,file.driver=file,file.filename=/a", "-blockdev",
       "driver=blkdebug,node-name=d,image=f,inject-error.0.event=write_aio,inject-error.0.errno=28,"
       "inject-error.0.sector=8,inject-error.0.once=on,inject-error.1.event=none,inject-error.1.iotype.0=flush"});
  ASSERT_EQ(config.drives.size(), 1u);
  EXPECT_EQ(config.drives[0].id, "d");
  EXPECT_EQ(config.drives[0].injected,
            (std::vector<machine::InjectedError>{
                {.reads = false, .writes = true, .flushes = false, .error = 28, .sector = 8, .once = true},
                {.reads = false, .writes = false, .flushes = true}}));
  EXPECT_FALSE(error_of({"-blockdev", "driver=blkdebug,node-name=d,image=f"}).empty());
}

TEST(RunOptions, DisksAndDiscsMayBeOnAScsiBus) {
  MachineConfig config;
  ASSERT_TRUE(add_run_disk(config, "file=/a,,b,bus=scsi,serial=S,readonly=on", false));
  ASSERT_TRUE(add_run_disk(config, "file=/c", true));
  ASSERT_TRUE(add_run_disk(config, "file=/d,bus=virtio,serial=T", false));
  ASSERT_EQ(config.virtio.size(), 2u);
  const auto& controller = std::get<machine::VirtioScsiConfig>(config.virtio[0]);
  ASSERT_EQ(controller.units.size(), 2u);
  EXPECT_EQ(controller.units[0].serial, "S");
  EXPECT_EQ(controller.units[1].target, 1u);
  EXPECT_TRUE(controller.units[1].cdrom);
  EXPECT_EQ(config.drives[0].file, "/a,b");
  EXPECT_TRUE(config.drives[0].read_only);
  EXPECT_TRUE(config.drives[1].read_only);
  EXPECT_EQ(std::get<machine::VirtioBlkConfig>(config.virtio[1]).serial, "T");
  EXPECT_FALSE(add_run_disk(config, "file=/a,bus=ide", false));
}

}  // namespace
}  // namespace husk::app
