// husk: the host's KVM: what it can do, and CPU models cut to that
#include "accel/kvm/system.h"

#include <fcntl.h>

#include <algorithm>
#include <cstring>

#include "base/bits.h"

namespace husk::accel::kvm {

namespace {

using cpu::Feature;

/// Features that KVM does not list because userspace answers for them, or because they only describe (KVM api.rst,
/// KVM_GET_SUPPORTED_CPUID, "not all features returned").
bool described_only(Feature feature) {
  switch (feature) {
    case Feature::hypervisor:
    case Feature::ht:
    case Feature::cmp_legacy:
    case Feature::topoext:
    case Feature::osxsave:
    case Feature::ospke:
    case Feature::kvm_nopiodelay: return true;
    default: return false;
  }
}

Error cannot_open(const std::string& device, int error) {
  Error out = fail_errno(error, "cannot open " + device).error();
  if (error == EACCES || error == EPERM)
    out.next_step = "add this user to the group kvm (sudo usermod -aG kvm $USER) and log in again, or use --accel soft";
  else if (error == ENOENT)
    out.next_step = "load the module (sudo modprobe kvm_intel or kvm_amd), or use --accel soft; husk doctor tells more";
  else
    out.next_step = "look at the kernel's messages (sudo dmesg | grep -i kvm), or use --accel soft";
  return out;
}

std::unexpected<Error> too_old(const char* what) {
  return std::unexpected(
      Error{fmt::format("this host's KVM has no {}", what), "use a newer kernel (5.14 or later), or --accel soft"});
}

std::string text_of(std::initializer_list<std::uint32_t> words) {
  std::string text;
  for (const std::uint32_t word : words) {
    char raw[4];
    std::memcpy(raw, &word, 4);
    text.append(raw, 4);
  }
  return text;
}

}  // namespace

Result<std::unique_ptr<System>> System::open(const std::string& device) {
  std::unique_ptr<System> system(new System);
  system->fd_.reset(::open(device.c_str(), O_RDWR | O_CLOEXEC));
  if (!system->fd_) return std::unexpected(cannot_open(device, errno));
  HUSK_TRY(system->look());
  return system;
}

Status System::look() {
  const int version = call(fd_.get(), KVM_GET_API_VERSION, 0);
  if (version != KVM_API_VERSION)
    return std::unexpected(Error{fmt::format("KVM answers API version {} and not {}", version, KVM_API_VERSION),
                                 "use a kernel with KVM's stable API, or --accel soft"});
  const auto extension = [&](int which) { return std::max(call(fd_.get(), KVM_CHECK_EXTENSION, which), 0); };
  if (!extension(KVM_CAP_USER_MEMORY)) return too_old("KVM_CAP_USER_MEMORY");
  if (!extension(KVM_CAP_IMMEDIATE_EXIT)) return too_old("KVM_CAP_IMMEDIATE_EXIT");
  if (!extension(KVM_CAP_EXT_CPUID)) return too_old("KVM_CAP_EXT_CPUID");
  if (!extension(KVM_CAP_VCPU_EVENTS)) return too_old("KVM_CAP_VCPU_EVENTS");
  if (!extension(KVM_CAP_DEBUGREGS)) return too_old("KVM_CAP_DEBUGREGS");
  caps_.user_msr = extension(KVM_CAP_X86_USER_SPACE_MSR);
  caps_.sregs2 = extension(KVM_CAP_SREGS2);
  caps_.readonly_memory = extension(KVM_CAP_READONLY_MEM);
  caps_.adjust_clock = extension(KVM_CAP_ADJUST_CLOCK);
  caps_.triple_fault_event = extension(KVM_CAP_X86_TRIPLE_FAULT_EVENT);
  caps_.xsave = extension(KVM_CAP_XSAVE);
  caps_.xcrs = extension(KVM_CAP_XCRS);
  caps_.io_eventfd = extension(KVM_CAP_IOEVENTFD) && extension(KVM_CAP_IOEVENTFD_ANY_LENGTH);
  caps_.tsc_deadline = extension(KVM_CAP_TSC_DEADLINE_TIMER);
  caps_.most_vcpus = static_cast<unsigned>(std::max(extension(KVM_CAP_MAX_VCPUS), 1));
  if (const int slots = extension(KVM_CAP_NR_MEMSLOTS); slots > 0) caps_.most_slots = static_cast<unsigned>(slots);
  const int area = call(fd_.get(), KVM_GET_VCPU_MMAP_SIZE, 0);
  if (area < static_cast<int>(sizeof(kvm_run))) return fail_errno(errno, "KVM_GET_VCPU_MMAP_SIZE");
  caps_.vcpu_area_bytes = static_cast<unsigned>(area);
  if (call(fd_.get(), kGetSupportedCpuid, &supported_) != 0) return fail_errno(errno, "KVM_GET_SUPPORTED_CPUID");
  supported_.count = std::min(supported_.count, CpuidTable::kMost);

  // struct kvm_msr_list: a count and so many numbers.
  std::vector<std::uint32_t> list(1);
  if (call(fd_.get(), kGetMsrIndexList, list.data()) != 0 && errno != E2BIG)
    return fail_errno(errno, "KVM_GET_MSR_INDEX_LIST");
  list.resize(1 + std::size_t{list[0]});
  if (call(fd_.get(), kGetMsrIndexList, list.data()) != 0) return fail_errno(errno, "KVM_GET_MSR_INDEX_LIST");
  msr_list_.assign(list.begin() + 1, list.begin() + 1 + std::min<std::ptrdiff_t>(list[0], std::ssize(list) - 1));

  // The host's TSC frequency is known to a VM or a vCPU only.
  const host::UniqueFd vm(call(fd_.get(), KVM_CREATE_VM, 0));
  if (!vm) {
    Error error = fail_errno(errno, "KVM_CREATE_VM").error();
    error.next_step = "end other users of the processor's virtualization, look at sudo dmesg, or use --accel soft";
    return std::unexpected(std::move(error));
  }
  const host::UniqueFd vcpu(call(vm.get(), KVM_CREATE_VCPU, 0));
  if (!vcpu) return fail_errno(errno, "KVM_CREATE_VCPU");
  const int khz = call(vcpu.get(), KVM_GET_TSC_KHZ, 0);
  if (khz <= 0)
    return std::unexpected(Error{"KVM does not tell the frequency of the time-stamp counter",
                                 "use a host with a constant TSC, or --accel soft"});
  tsc_hz_ = static_cast<std::uint64_t>(khz) * 1000;
  kvm_device_attr offset{};
  offset.group = KVM_VCPU_TSC_CTRL;
  offset.attr = KVM_VCPU_TSC_OFFSET;
  caps_.tsc_offset = call(vcpu.get(), KVM_HAS_DEVICE_ATTR, &offset) == 0;
  return {};
}

const kvm_cpuid_entry2* System::find(std::uint32_t leaf, std::uint32_t subleaf) const {
  for (std::uint32_t i = 0; i < supported_.count; ++i) {
    const kvm_cpuid_entry2& entry = supported_.entries[i];
    if (entry.function != leaf) continue;
    if (!(entry.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) || entry.index == subleaf) return &entry;
  }
  return nullptr;
}

bool System::offers(Feature feature) const {
  if (described_only(feature)) return true;
  // husk's own local APIC answers these: x2APIC by MSR exits; a deadline in TSC ticks it could not keep exactly.
  if (feature == Feature::x2apic) return kernel_apic_ || caps_.user_msr;
  if (feature == Feature::tsc_deadline) return kernel_apic_ && caps_.tsc_deadline;
  const cpu::FeatureInfo& info = cpu::feature_info(feature);
  const kvm_cpuid_entry2* entry = find(info.leaf, info.subleaf);
  if (!entry) return false;
  switch (info.reg) {
    case cpu::CpuidRegister::eax: return bit(entry->eax, info.bit);
    case cpu::CpuidRegister::ebx: return bit(entry->ebx, info.bit);
    case cpu::CpuidRegister::ecx: return bit(entry->ecx, info.bit);
    case cpu::CpuidRegister::edx: return bit(entry->edx, info.bit);
  }
  return false;
}

std::vector<std::string> System::missing(const cpu::CpuModel& model) const {
  std::vector<std::string> names;
  for (std::size_t i = 1; i < cpu::kFeatureCount; ++i) {
    const auto feature = static_cast<Feature>(i);
    if (model.has(feature) && !offers(feature)) names.emplace_back(cpu::feature_info(feature).name);
  }
  return names;
}

Status System::accepts(const cpu::CpuModel& model) const {
  if (const auto names = missing(model); !names.empty()) {
    std::string list;
    for (const std::string& name : names) list += (list.empty() ? "" : " ") + name;
    return std::unexpected(Error{fmt::format("accelerator kvm: the guest's CPU has what this host lacks: {}", list),
                                 "start the machine without them, or on KVM"});
  }
  if (model.tsc_hz != tsc_hz_)
    return std::unexpected(
        Error{fmt::format("accelerator kvm: the guest's time-stamp counter runs at {} Hz and this host's at {} Hz",
                          model.tsc_hz, tsc_hz_),
              fmt::format("start the machine with tsc-frequency={}, or on KVM", tsc_hz_)});
  const auto* sizes = find(0x80000008, 0);
  if (sizes && model.physical_bits > (sizes->eax & 0xFF))
    return fail("accelerator kvm: the guest's CPU has {} physical address bits and this host's {}", model.physical_bits,
                sizes->eax & 0xFF);
  return {};
}

void System::take_host_identity(cpu::CpuModel& model) const {
  if (const auto* leaf0 = find(0, 0)) model.vendor = text_of({leaf0->ebx, leaf0->edx, leaf0->ecx});
  if (const auto* leaf1 = find(1, 0)) {
    // SDM vol. 2, CPUID, figure 3-6: the extended family counts from family 0Fh on.
    const std::uint32_t eax = leaf1->eax;
    model.stepping = static_cast<unsigned>(bits(eax, 0, 4));
    model.family = static_cast<unsigned>(bits(eax, 8, 4));
    model.model = static_cast<unsigned>(bits(eax, 4, 4));
    if (model.family == 6 || model.family == 15) model.model += static_cast<unsigned>(bits(eax, 16, 4)) << 4;
    if (model.family == 15) model.family += static_cast<unsigned>(bits(eax, 20, 8));
  }
  std::string brand;
  for (std::uint32_t leaf = 0x80000002; leaf <= 0x80000004; ++leaf)
    if (const auto* entry = find(leaf, 0)) brand += text_of({entry->eax, entry->ebx, entry->ecx, entry->edx});
  if (const std::size_t end = brand.find('\0'); end != std::string::npos) brand.resize(end);
  if (!brand.empty()) model.brand = brand.substr(0, 47);
}

Result<cpu::CpuModel> System::adapt(cpu::CpuModel model, Log& log) const {
  const bool host_model = model.name == "max";
  if (host_model) take_host_identity(model);
  std::string dropped;
  for (const std::string& name : missing(model)) {
    // An earlier feature may have taken this one with it.
    HUSK_TRY(cpu::edit_features(model, "-" + name));
    dropped += (dropped.empty() ? "" : " ") + name;
  }
  if (!dropped.empty() && !host_model)
    log.warning("KVM on this host cannot give the CPU model {} these features: {}", model.name, dropped);
  if (const auto* sizes = find(0x80000008, 0)) {
    model.physical_bits = std::min<unsigned>(host_model ? 52 : model.physical_bits, sizes->eax & 0xFF);
    if (model.linear_bits > ((sizes->eax >> 8) & 0xFF)) model.linear_bits = (sizes->eax >> 8) & 0xFF;
  }
  const std::uint64_t unset = cpu::CpuModel{}.tsc_hz;
  if (model.tsc_hz != unset && model.tsc_hz != tsc_hz_)
    return std::unexpected(
        Error{fmt::format("accelerator kvm: the time-stamp counter runs at {} Hz here and not at {} Hz", tsc_hz_,
                          model.tsc_hz),
              "leave tsc-frequency out, or use --accel soft"});
  model.tsc_hz = tsc_hz_;
  return model;
}

unsigned xsave_offset(const System& system, unsigned component) {
  const kvm_cpuid_entry2* entry = system.find(0xD, component);
  return entry && entry->eax ? entry->ebx : 0;
}

std::unique_ptr<CpuidTable> cpuid_table(const System& system, const cpu::CpuModel& model, unsigned apic_id) {
  auto table = std::make_unique<CpuidTable>();
  table->count = 0;
  const cpu::CpuidContext context{.apic_id = apic_id};
  const auto add = [&](std::uint32_t leaf, std::uint32_t subleaf, bool indexed) {
    if (table->count == CpuidTable::kMost) return;
    cpu::CpuidResult r = cpu::cpuid(model, context, leaf, subleaf);
    if (leaf == 0xD && subleaf >= 2) {
      // Where the processor saves a component is not for husk to say.
      const kvm_cpuid_entry2* host = system.find(0xD, subleaf);
      if (!bit(cpu::supported_xcr0(model), subleaf) || !host) return;
      r = {host->eax, host->ebx, host->ecx, host->edx};
    }
    kvm_cpuid_entry2& entry = table->entries[table->count++];
    entry.function = leaf;
    entry.index = subleaf;
    entry.flags = indexed ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0;
    entry.eax = r.eax;
    entry.ebx = r.ebx;
    entry.ecx = r.ecx;
    entry.edx = r.edx;
  };
  const auto add_range = [&](std::uint32_t first, std::uint32_t last) {
    for (std::uint32_t leaf = first; leaf <= last; ++leaf) {
      unsigned subleaves = 1;
      if (leaf == 4 || leaf == 0x8000001D) subleaves = 5;
      if (leaf == 0xB || leaf == 0x1F) subleaves = 3;
      if (leaf == 0xD) subleaves = 63;
      for (unsigned subleaf = 0; subleaf < subleaves; ++subleaf) add(leaf, subleaf, subleaves > 1 || leaf == 7);
    }
  };
  add_range(0, std::min<std::uint32_t>(model.basic_leaves, 0x20));
  if (model.has(Feature::hypervisor)) {
    add(0x40000000, 0, false);
    add(0x40000001, 0, false);
    add(0x40000010, 0, false);
  }
  add_range(0x80000000, std::min<std::uint32_t>(model.extended_leaves, 0x80000030));
  return table;
}

}  // namespace husk::accel::kvm
