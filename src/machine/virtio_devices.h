// husk: virtio devices on a board's PCI bus, each with a lock domain and a clock of its own
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "accel/accel.h"
#include "core/backends.h"
#include "core/block_backend.h"
#include "core/net_backend.h"
#include "core/persistent_memory.h"
#include "core/share_backend.h"
#include "core/vsock_backend.h"
#include "devices/pci/bus.h"
#include "devices/virtio/pci.h"
#include "host/event_fd.h"
#include "host/event_loop.h"
#include "machine/virtio_config.h"
#include "machine/vm_clock.h"
#include "mem/address_space.h"

namespace husk::machine {

/// Makes the host's end of a device; its callbacks run, and it is called, with `domain` held. `name` is for the user.
template <class Backend>
using BackendFactory =
    std::function<Result<std::unique_ptr<Backend>>(mem::LockDomain& domain, const std::string& name)>;

/// A virtio device as configured, and the factories of what it needs (only those of its kind are looked at).
struct VirtioSpec {
  VirtioConfig config = {};
  BackendFactory<core::BlockBackend> block = {};
  std::vector<BackendFactory<core::BlockBackend>> units = {};  ///< of a SCSI controller; null: no medium
  BackendFactory<core::NetBackend> net = {};
  unsigned net_queues = 1;  ///< queue pairs of the card
  BackendFactory<core::ShareBackend> fs = {};
  BackendFactory<core::VsockBackend> vsock = {};
  BackendFactory<core::PersistentMemory> pmem = {};
  std::vector<BackendFactory<core::CharBackend>> ports = {};
};

class VirtioDevices {
 public:
  struct Deps {
    mem::AddressSpace& memory_space;
    mem::AddressSpace& io_space;
    VmClock& clock;
    host::EventLoop& loop;
    Log& log;
    core::MsiPort& msi;
    devices::pci::Bus& bus;
    unsigned cpus = 1;
    /// A disk's error is to stop the machine; `cause` is for the user. Called with the disk's domain held.
    std::function<void(const std::string& cause)> stop;
    /// Puts memory of a device's into the address space, where all CPUs have it.
    struct Placed {
      mem::Gpa start = 0;
      mem::Mapping mapping = {};
    };
    std::function<Result<Placed>(mem::RamRegion& region)> place_memory;
    /// Told of each device, with its domain, in the order of saving.
    std::function<void(core::Device&, mem::LockDomain*)> add;
  };
  explicit VirtioDevices(Deps deps) : deps_(std::move(deps)), memory_(deps_.memory_space) {}
  ~VirtioDevices();
  Status add(const VirtioSpec& spec);

  /// What has the queues looked after by the loop, for accelerators that ring. Made when first asked for.
  Result<std::vector<accel::Doorbell>> doorbells();
  /// Before devices are quiesced: what was rung and not answered is answered now. On the loop's thread, while no CPU
  /// runs.
  void answer_doorbells();

 private:
  struct Bell {
    host::EventFd event;
    host::EventLoop::Watch watch;
  };
  /// In order of destruction from the back.
  struct Attached {
    std::unique_ptr<mem::LockDomain> domain;
    std::unique_ptr<core::Clock> clock;
    std::vector<std::unique_ptr<core::CharBackend>> ports;
    std::unique_ptr<core::BlockBackend> block;
    std::vector<std::unique_ptr<core::BlockBackend>> units;
    std::unique_ptr<core::NetBackend> net;
    std::unique_ptr<core::ShareBackend> fs;
    std::unique_ptr<core::VsockBackend> vsock;
    std::unique_ptr<core::PersistentMemory> pmem;
    mem::Mapping memory;
    std::unique_ptr<core::Device> device;
    devices::virtio::VirtioDevice* virtio = nullptr;
    std::unique_ptr<devices::virtio::PciTransport> transport;
    std::vector<Bell> bells;  ///< one a queue, or none
  };
  static void answer(Attached& attached, unsigned queue);
  template <class D>
  void keep(Attached& attached, std::unique_ptr<D> device) {
    attached.virtio = device.get();
    attached.device = std::move(device);
  }
  Status make(Attached& attached, const VirtioRngConfig& config, const VirtioSpec& spec, const std::string& id);
  Status make(Attached& attached, const VirtioBlkConfig& config, const VirtioSpec& spec, const std::string& id);
  Status make(Attached& attached, const VirtioNetConfig& config, const VirtioSpec& spec, const std::string& id);
  Status make(Attached& attached, const VirtioConsoleConfig& config, const VirtioSpec& spec, const std::string& id);
  Status make(Attached& attached, const Virtio9pConfig& config, const VirtioSpec& spec, const std::string& id);
  Status make(Attached& attached, const VirtioBalloonConfig& config, const VirtioSpec& spec, const std::string& id);
  Status make(Attached& attached, const VirtioFsConfig& config, const VirtioSpec& spec, const std::string& id);
  Status make(Attached& attached, const VirtioVsockConfig& config, const VirtioSpec& spec, const std::string& id);
  Status make(Attached& attached, const VirtioScsiConfig& config, const VirtioSpec& spec, const std::string& id);
  Status make(Attached& attached, const VirtioPmemConfig& config, const VirtioSpec& spec, const std::string& id);
  core::BlockStop stop_for(std::string disk) const;
  devices::virtio::Environment environment(Attached& attached) { return {memory_, *attached.clock, deps_.log}; }

  Deps deps_;
  mem::GuestMemory memory_;
  unsigned net_cards_ = 0;
  std::vector<std::unique_ptr<Attached>> attached_;
};

}  // namespace husk::machine
