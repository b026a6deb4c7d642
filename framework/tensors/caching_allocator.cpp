#include "framework/tensors/caching_allocator.h"

#include <c10/core/CPUAllocator.h>
#include <c10/util/Exception.h>
#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cstdint>

namespace regroup {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;
/// The mapped bytes may exceed the largest number of bytes in use by this factor, because a step
/// uses tensors of different sizes in turn, and moving pages between them takes time.
constexpr double kSlack = 1.05;

size_t rounded_up(size_t size, size_t step) { return (size + step - 1) / step * step; }

/// Eight size classes per factor of two, so at most an eighth is wasted.
size_t size_class(size_t size) {
  return rounded_up(size, std::max(kHugePage / 16, std::bit_floor(size) / 8));
}

/// Maps pages from the system, aligned to a huge page.
void* map(size_t size) {
  const size_t asked = size + kHugePage;
  TORCH_CHECK_WITH(OutOfMemoryError, asked > size, size, " bytes more are needed");
  void* mapped = ::mmap(nullptr, asked, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  TORCH_CHECK_WITH(OutOfMemoryError, mapped != MAP_FAILED, size, " bytes more are needed");
  const auto begin = reinterpret_cast<uintptr_t>(mapped);
  const auto aligned = rounded_up(begin, kHugePage);
  if (aligned > begin) ::munmap(mapped, aligned - begin);
  const size_t behind = begin + asked - (aligned + size);
  auto* data = reinterpret_cast<void*>(aligned);
  if (behind > 0) ::munmap(static_cast<char*>(data) + size, behind);
  ::madvise(data, size, MADV_HUGEPAGE);
  return data;
}

/// Moves a huge page of memory in use from one address to another, where nothing was written.
bool move_page(char* from, char* to) {
  return ::mremap(from, kHugePage, kHugePage, MREMAP_MAYMOVE | MREMAP_FIXED, to) != MAP_FAILED;
}

}  // namespace

CachingAllocator& CachingAllocator::instance() {
  static auto* const allocator = new CachingAllocator;
  return *allocator;
}

CachingAllocator::CachingAllocator() : small_(c10::GetDefaultCPUAllocator()) {}

c10::DataPtr CachingAllocator::allocate(size_t n_bytes) {
  void* data = n_bytes < kSmallest ? small_->raw_allocate(n_bytes) : take(size_class(n_bytes));
  return {data, data, &free_data, c10::Device(c10::DeviceType::CPU)};
}

void* CachingAllocator::take(size_t size) {
  const std::lock_guard lock(mutex_);
  most_used_ = std::max(most_used_, used_ + size);
  void* data = nullptr;
  if (const auto fitting = unused_.find(size); fitting != unused_.end()) {
    data = fitting->second;
    unused_.erase(fitting);
  } else {
    data = map(size);
    mapped_ += size;
    fill_with_unused_pages(static_cast<char*>(data), size);
  }
  in_use_[data] = size;
  used_ += size;
  return data;
}

/// Takes the pages that are too many from the unused blocks, largest first, and puts them under the
/// new block: the system would have to clear new ones.
void CachingAllocator::fill_with_unused_pages(char* block, size_t size) {
  const auto most = static_cast<size_t>(kSlack * static_cast<double>(most_used_));
  const char* const end = block + size / kHugePage * kHugePage;
  while (mapped_ > most && !unused_.empty()) {
    const auto largest = std::prev(unused_.end());
    size_t rest = largest->first;
    auto* const from = static_cast<char*>(largest->second);
    unused_.erase(largest);
    while (rest > 0 && mapped_ > most) {
      const size_t odd = rest % kHugePage, part = odd > 0 ? odd : kHugePage;
      rest -= part;
      mapped_ -= part;
      const bool moves = part == kHugePage && block < end && move_page(from + rest, block);
      if (moves) {
        block += kHugePage;
      } else {
        ::munmap(from + rest, part);
      }
    }
    if (rest > 0) unused_.emplace(rest, from);
  }
}

void CachingAllocator::unmap(std::multimap<size_t, void*>::iterator unused) {
  const auto [size, data] = *unused;
  unused_.erase(unused);
  mapped_ -= size;
  ::munmap(data, size);
}

void CachingAllocator::free_data(void* data) {
  // Only addresses aligned to a huge page can belong to this allocator; others need no lookup.
  const bool may_be_ours = reinterpret_cast<uintptr_t>(data) % kHugePage == 0;
  auto& allocator = instance();
  if (may_be_ours && allocator.put_back(data)) return;
  allocator.small_->raw_deleter()(data);
}

/// Returns false where the data do not belong to this allocator.
bool CachingAllocator::put_back(void* data) {
  const std::lock_guard lock(mutex_);
  const auto found = in_use_.find(data);
  if (found == in_use_.end()) return false;
  used_ -= found->second;
  unused_.emplace(found->second, data);
  in_use_.erase(found);
  return true;
}

size_t CachingAllocator::used_bytes() const {
  const std::lock_guard lock(mutex_);
  return used_;
}

size_t CachingAllocator::mapped_bytes() const {
  const std::lock_guard lock(mutex_);
  return mapped_;
}

void CachingAllocator::release_unused() {
  const std::lock_guard lock(mutex_);
  while (!unused_.empty()) unmap(unused_.begin());
}

}  // namespace regroup
