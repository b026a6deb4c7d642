#include "framework/distributed/backends.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <sys/socket.h>

#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#ifdef USE_C10D_NCCL
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>
#endif

#include "framework/errors/error.h"
#include "framework/files/file_descriptor.h"

namespace regroup {
namespace {

using BackendPointer = c10::intrusive_ptr<c10d::Backend>;

#ifdef USE_C10D_NCCL
constexpr bool kHasNccl = true;
#else
constexpr bool kHasNccl = false;
#endif

/// The address of this machine's interface towards the host: that of a datagram socket connected to
/// it, which sends nothing. Empty where it is unknown.
std::string address_facing(const std::string& host) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_DGRAM;
  addrinfo* found = nullptr;
  if (getaddrinfo(host.c_str(), "9", &hints, &found) != 0) return "";
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owned(found, freeaddrinfo);
  const FileDescriptor socket(::socket(found->ai_family, SOCK_DGRAM, 0));
  sockaddr_storage own{};
  socklen_t length = sizeof own;
  char name[NI_MAXHOST];
  const bool known =
      socket.is_open() && ::connect(socket.value(), found->ai_addr, found->ai_addrlen) == 0 &&
      ::getsockname(socket.value(), reinterpret_cast<sockaddr*>(&own), &length) == 0 &&
      ::getnameinfo(reinterpret_cast<sockaddr*>(&own), length, name, sizeof name, nullptr, 0,
                    NI_NUMERICHOST) == 0;
  return known ? name : "";
}

/// The first address of this machine that other machines can reach; empty where there is none.
std::string outward_address() {
  ifaddrs* found = nullptr;
  if (getifaddrs(&found) != 0) return "";
  const std::unique_ptr<ifaddrs, decltype(&freeifaddrs)> owned(found, freeifaddrs);
  for (const ifaddrs* each = found; each; each = each->ifa_next) {
    const bool is_inet = each->ifa_addr && each->ifa_addr->sa_family == AF_INET;
    char name[NI_MAXHOST];
    if (!is_inet || !(each->ifa_flags & IFF_UP) || (each->ifa_flags & IFF_LOOPBACK)) continue;
    if (getnameinfo(each->ifa_addr, sizeof(sockaddr_in), name, sizeof name, nullptr, 0,
                    NI_NUMERICHOST) == 0)
      return name;
  }
  return "";
}

/// The address at which other processes of the launch reach this one. On the first node its host
/// name may resolve to the loopback (Debian's 127.0.1.1), which other nodes cannot use.
std::string own_address(const Launch& launch) {
  const auto facing = address_facing(launch.address);
  const bool is_loopback = facing.starts_with("127.") || facing == "::1";
  return is_loopback && launch.local_size < launch.size ? outward_address() : facing;
}

#ifdef USE_C10D_NCCL
BackendPointer make_nccl(const GroupPlace& place) {
  auto options = c10d::ProcessGroupNCCL::Options::create();
  options->timeout = place.timeout;
  return c10::make_intrusive<c10d::ProcessGroupNCCL>(place.store, place.rank, place.size, options);
}
#else
BackendPointer make_nccl(const GroupPlace&) { TORCH_CHECK(false, "built without NCCL"); }
#endif

bool takes_nccl(BackendKind kind, c10::Device device) {
  return kind == BackendKind::kNccl || (kind == BackendKind::kAuto && device.is_cuda());
}

}  // namespace

const EnumNames<BackendKind>& backend_kinds() {
  static const EnumNames<BackendKind> names{
      {"auto", BackendKind::kAuto}, {"nccl", BackendKind::kNccl}, {"gloo", BackendKind::kGloo}};
  return names;
}

void check_backend(BackendKind kind, c10::Device device) {
  if (!takes_nccl(kind, device)) return;
  if (!kHasNccl) {
    throw request_error("dist.backend", "nccl is not part of this build",
                        "Take gloo, or build on PyTorch's CUDA flavour (tools/setup.sh --cuda).");
  }
  if (!device.is_cuda()) {
    throw request_error("dist.backend", "nccl joins GPUs, but train.device is cpu",
                        "Take gloo, or device = cuda.");
  }
}

BackendPointer make_gloo(const GroupPlace& place, const Launch& launch) {
  auto options = c10d::ProcessGroupGloo::Options::create(place.timeout);
  const char* interface = std::getenv("GLOO_SOCKET_IFNAME");
  const auto address = own_address(launch);
  if (interface && *interface) {
    options->devices.push_back(c10d::ProcessGroupGloo::createDeviceForInterface(interface));
  } else if (!address.empty()) {
    options->devices.push_back(c10d::ProcessGroupGloo::createDeviceForHostname(address));
  } else {
    options->devices.push_back(c10d::ProcessGroupGloo::createDefaultDevice());
  }
  return c10::make_intrusive<c10d::ProcessGroupGloo>(place.store, place.rank, place.size, options);
}

BackendPointer make_backend(BackendKind kind, c10::Device device, const GroupPlace& place,
                            const Launch& launch) {
  check_backend(kind, device);
  return takes_nccl(kind, device) ? make_nccl(place) : make_gloo(place, launch);
}

}  // namespace regroup
