#include "framework/tensors/caching_allocator.h"

#include <cstdint>
#include <cstring>

#include "tests/support/catch_torch.h"

namespace regroup {
namespace {

constexpr size_t kMiB = size_t{1} << 20;

/// The process's allocator, without memory from other tests.
CachingAllocator& fresh_allocator() {
  auto& allocator = CachingAllocator::instance();
  allocator.release_unused();
  return allocator;
}

TEST_CASE("freed memory serves the next tensor of about that size", "[memory]") {
  auto& allocator = fresh_allocator();
  auto first = allocator.allocate(10 * kMiB);
  std::memset(first.get(), 1, 10 * kMiB);
  const auto* place = first.get();
  CHECK(reinterpret_cast<uintptr_t>(place) % 64 == 0);
  CHECK(allocator.used_bytes() >= 10 * kMiB);
  CHECK(allocator.used_bytes() <= 10 * kMiB * 9 / 8);
  first.clear();
  CHECK(allocator.used_bytes() == 0);
  CHECK(allocator.mapped_bytes() >= 10 * kMiB);
  const auto second = allocator.allocate(10 * kMiB - 1000);
  CHECK(second.get() == place);
}

TEST_CASE("tensors in use never share memory", "[memory]") {
  auto& allocator = fresh_allocator();
  std::vector<c10::DataPtr> blocks;
  for (const size_t size : {3 * kMiB, 3 * kMiB, 5 * kMiB, kMiB, 100 * size_t{1}}) {
    blocks.push_back(allocator.allocate(size));
    std::memset(blocks.back().get(), static_cast<int>(blocks.size()), size);
  }
  blocks.erase(blocks.begin() + 1);
  blocks.push_back(allocator.allocate(3 * kMiB));
  std::memset(blocks.back().get(), 9, 3 * kMiB);
  CHECK(*static_cast<char*>(blocks[0].get()) == 1);
  CHECK(*static_cast<char*>(blocks[1].get()) == 3);
  CHECK(*static_cast<char*>(blocks[2].get()) == 4);
  CHECK(*static_cast<char*>(blocks[3].get()) == 5);
}

TEST_CASE("different sizes in turn do not accumulate memory", "[memory]") {
  auto& allocator = fresh_allocator();
  size_t most_mapped = 0;
  for (size_t size = 64; size < 200; size += 7) {  // MiB, one at a time
    const auto block = allocator.allocate(size * kMiB);
    most_mapped = std::max(most_mapped, allocator.mapped_bytes());
  }
  CHECK(most_mapped < 300 * kMiB);
  allocator.release_unused();
  CHECK(allocator.mapped_bytes() == 0);
}

TEST_CASE("pages of freed tensors serve tensors of other sizes", "[memory]") {
  auto& allocator = fresh_allocator();
  constexpr size_t kPage = 2 * kMiB, kMost = 320 * kMiB;  // more than other tests use
  allocator.allocate(kMost).clear();
  for (const size_t size : {320 * kMiB, 288 * kMiB, 256 * kMiB}) {
    auto block = allocator.allocate(size);
    for (size_t byte = 0; byte < size; byte += kPage) static_cast<char*>(block.get())[byte] = 1;
    CHECK(allocator.mapped_bytes() <= kMost * 21 / 20);
    block.clear();
    const auto other = allocator.allocate(size - 32 * kMiB);
    CHECK(*static_cast<char*>(other.get()) == 1);  // a new page would be clear
    CHECK(allocator.mapped_bytes() <= kMost * 21 / 20);
  }
}

TEST_CASE("raw allocations, small and large, are freed by raw deallocation", "[memory]") {
  auto& allocator = fresh_allocator();
  const size_t size = GENERATE(size_t{0}, size_t{100}, 4 * kMiB);
  void* data = allocator.raw_allocate(size);
  if (size > 0) std::memset(data, 1, size);
  allocator.raw_deallocate(data);
  CHECK(allocator.used_bytes() == 0);
}

TEST_CASE("an allocation larger than the memory throws", "[memory]") {
  CHECK_THROWS_WITH(fresh_allocator().allocate(size_t{1} << 60), Contains("bytes more are needed"));
  CHECK(fresh_allocator().used_bytes() == 0);
}

}  // namespace
}  // namespace regroup
