# cmake --install: bin/regroup and the program that it starts, the libraries, their headers and find_package(Regroup).
include(CMakePackageConfigHelpers)

set(package_folder ${CMAKE_INSTALL_LIBDIR}/cmake/Regroup)

foreach(folder IN ITEMS framework models trainers)
  set_target_properties(regroup_${folder} PROPERTIES EXPORT_NAME ${folder})
  install(TARGETS regroup_${folder} EXPORT RegroupTargets
          ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
  install(DIRECTORY ${PROJECT_SOURCE_DIR}/${folder}
          DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/regroup
          FILES_MATCHING PATTERN "*.h")
endforeach()
install(TARGETS regroup RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(TARGETS regroup_program RUNTIME DESTINATION ${CMAKE_INSTALL_LIBEXECDIR})
install(EXPORT RegroupTargets NAMESPACE Regroup:: DESTINATION ${package_folder})

configure_package_config_file(
  ${PROJECT_SOURCE_DIR}/tools/cmake/RegroupConfig.cmake.in
  ${PROJECT_BINARY_DIR}/RegroupConfig.cmake INSTALL_DESTINATION ${package_folder})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/RegroupConfigVersion.cmake
                                 COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/RegroupConfig.cmake
              ${PROJECT_BINARY_DIR}/RegroupConfigVersion.cmake
              ${PROJECT_SOURCE_DIR}/tools/cmake/RegroupTorchTarget.cmake
        DESTINATION ${package_folder})
