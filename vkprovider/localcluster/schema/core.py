"""Fields of the core/v1 messages; see ``vkprovider.localcluster.schema`` for the notation. Made by tests/unit/localcluster/make_schema.py."""

from __future__ import annotations

CORE = """
AWSElasticBlockStoreVolumeSource: volumeID=1+s fsType=2s partition=3i readOnly=4b
Affinity: nodeAffinity=1*NodeAffinity podAffinity=2*PodAffinity podAntiAffinity=3*PodAntiAffinity
AppArmorProfile: type=1+s localhostProfile=2*s
AttachedVolume: name=1+s devicePath=2+s
AzureDiskVolumeSource: diskName=1+s diskURI=2+s cachingMode=3*s fsType=4*s readOnly=5*b kind=6*s
AzureFilePersistentVolumeSource: secretName=1+s shareName=2+s readOnly=3b secretNamespace=4+*s
AzureFileVolumeSource: secretName=1+s shareName=2+s readOnly=3b
Binding: metadata=1+meta.ObjectMeta target=2+ObjectReference
CSIPersistentVolumeSource: driver=1+s volumeHandle=2+s readOnly=3b fsType=4s volumeAttributes=5{}s
  controllerPublishSecretRef=6*SecretReference nodeStageSecretRef=7*SecretReference
  nodePublishSecretRef=8*SecretReference controllerExpandSecretRef=9*SecretReference
  nodeExpandSecretRef=10*SecretReference
CSIVolumeSource: driver=1+s readOnly=2*b fsType=3*s volumeAttributes=4{}s nodePublishSecretRef=5*LocalObjectReference
Capabilities: add=1[]s drop=2[]s
CephFSPersistentVolumeSource: monitors=1+[]s path=2s user=3s secretFile=4s secretRef=5*SecretReference readOnly=6b
CephFSVolumeSource: monitors=1+[]s path=2s user=3s secretFile=4s secretRef=5*LocalObjectReference readOnly=6b
CinderPersistentVolumeSource: volumeID=1+s fsType=2s readOnly=3b secretRef=4*SecretReference
CinderVolumeSource: volumeID=1+s fsType=2s readOnly=3b secretRef=4*LocalObjectReference
ClientIPConfig: timeoutSeconds=1*i
ClusterTrustBundleProjection: name=1*s signerName=2*s labelSelector=3*meta.LabelSelector optional=5*b path=4+s
ConfigMap: metadata=1+meta.ObjectMeta immutable=4*b data=2{}s binaryData=3{}y
ConfigMapEnvSource: .localObjectReference=1LocalObjectReference optional=2*b
ConfigMapKeySelector: .localObjectReference=1LocalObjectReference key=2+s optional=3*b
ConfigMapNodeConfigSource: namespace=1+s name=2+s uid=3s resourceVersion=4s kubeletConfigKey=5+s
ConfigMapProjection: .localObjectReference=1LocalObjectReference items=2[]KeyToPath optional=4*b
ConfigMapVolumeSource: .localObjectReference=1LocalObjectReference items=2[]KeyToPath defaultMode=3*i optional=4*b
Container: name=1+s image=2s command=3[]s args=4[]s workingDir=5s
  ports=6[]ContainerPort@containerPort%containerPort,protocol envFrom=19[]EnvFromSource env=7[]EnvVar@name%name
  resources=8+ResourceRequirements resizePolicy=23[]ContainerResizePolicy restartPolicy=24*s
  restartPolicyRules=25[]ContainerRestartRule volumeMounts=9[]VolumeMount@mountPath%mountPath
  volumeDevices=21[]VolumeDevice@devicePath%devicePath livenessProbe=10*Probe readinessProbe=11*Probe
  startupProbe=22*Probe lifecycle=12*Lifecycle terminationMessagePath=13s terminationMessagePolicy=20s
  imagePullPolicy=14s securityContext=15*SecurityContext stdin=16b stdinOnce=17b tty=18b
ContainerExtendedResourceRequest: containerName=1+s resourceName=2+s requestName=3+s
ContainerImage: names=1+[]s sizeBytes=2i
ContainerPort: name=1s hostPort=2i containerPort=3+i protocol=4s hostIP=5s
ContainerResizePolicy: resourceName=1+s restartPolicy=2+s
ContainerRestartRule: action=1s exitCodes=2*ContainerRestartRuleOnExitCodes
ContainerRestartRuleOnExitCodes: operator=1s values=2[]i%set
ContainerState: waiting=1*ContainerStateWaiting running=2*ContainerStateRunning terminated=3*ContainerStateTerminated
ContainerStateRunning: startedAt=1+t
ContainerStateTerminated: exitCode=1+i signal=2i reason=3s message=4s startedAt=5+t finishedAt=6+t containerID=7s
ContainerStateWaiting: reason=1s message=2s
ContainerStatus: name=1+s state=2+ContainerState lastState=3+ContainerState ready=4+b restartCount=5+i image=6+s
  imageID=7+s containerID=8s started=9*b allocatedResources=10{}q resources=11*ResourceRequirements
  volumeMounts=12[]VolumeMountStatus@mountPath%mountPath user=13*ContainerUser
  allocatedResourcesStatus=14[]ResourceStatus@name%name stopSignal=15*s
ContainerUser: linux=1*LinuxContainerUser
DaemonEndpoint: Port=1+i
DownwardAPIProjection: items=1[]DownwardAPIVolumeFile
DownwardAPIVolumeFile: path=1+s fieldRef=2*ObjectFieldSelector resourceFieldRef=3*ResourceFieldSelector mode=4*i
DownwardAPIVolumeSource: items=1[]DownwardAPIVolumeFile defaultMode=2*i
EmptyDirVolumeSource: medium=1s sizeLimit=2*q
EndpointAddress: ip=1+s hostname=3s nodeName=4*s targetRef=2*ObjectReference
EndpointPort: name=1s port=2+i protocol=3s appProtocol=4*s
EndpointSubset: addresses=1[]EndpointAddress notReadyAddresses=2[]EndpointAddress ports=3[]EndpointPort
Endpoints: metadata=1+meta.ObjectMeta subsets=2[]EndpointSubset
EnvFromSource: prefix=1s configMapRef=2*ConfigMapEnvSource secretRef=3*SecretEnvSource
EnvVar: name=1+s value=2s valueFrom=3*EnvVarSource
EnvVarSource: fieldRef=1*ObjectFieldSelector resourceFieldRef=2*ResourceFieldSelector
  configMapKeyRef=3*ConfigMapKeySelector secretKeyRef=4*SecretKeySelector fileKeyRef=5*FileKeySelector
EphemeralContainer: .ephemeralContainerCommon=1EphemeralContainerCommon targetContainerName=2s
EphemeralContainerCommon: name=1+s image=2s command=3[]s args=4[]s workingDir=5s
  ports=6[]ContainerPort@containerPort%containerPort,protocol envFrom=19[]EnvFromSource env=7[]EnvVar@name%name
  resources=8+ResourceRequirements resizePolicy=23[]ContainerResizePolicy restartPolicy=24*s
  restartPolicyRules=25[]ContainerRestartRule volumeMounts=9[]VolumeMount@mountPath%mountPath
  volumeDevices=21[]VolumeDevice@devicePath%devicePath livenessProbe=10*Probe readinessProbe=11*Probe
  startupProbe=22*Probe lifecycle=12*Lifecycle terminationMessagePath=13s terminationMessagePolicy=20s
  imagePullPolicy=14s securityContext=15*SecurityContext stdin=16b stdinOnce=17b tty=18b
EphemeralVolumeSource: volumeClaimTemplate=1*PersistentVolumeClaimTemplate
Event: metadata=1+meta.ObjectMeta involvedObject=2+ObjectReference reason=3s message=4s source=5+EventSource
  firstTimestamp=6+t lastTimestamp=7+t count=8i type=9s eventTime=10+u series=11*EventSeries action=12s
  related=13*ObjectReference reportingComponent=14+s reportingInstance=15+s
EventSeries: count=1i lastObservedTime=2+u
EventSource: component=1s host=2s
ExecAction: command=1[]s
FCVolumeSource: targetWWNs=1[]s lun=2*i fsType=3s readOnly=4b wwids=5[]s
FileKeySelector: volumeName=1+s path=2+s key=3+s optional=4*b
FlexPersistentVolumeSource: driver=1+s fsType=2s secretRef=3*SecretReference readOnly=4b options=5{}s
FlexVolumeSource: driver=1+s fsType=2s secretRef=3*LocalObjectReference readOnly=4b options=5{}s
FlockerVolumeSource: datasetName=1s datasetUUID=2s
GCEPersistentDiskVolumeSource: pdName=1+s fsType=2s partition=3i readOnly=4b
GRPCAction: port=1+i service=2+*s
GitRepoVolumeSource: repository=1+s revision=2s directory=3s
GlusterfsPersistentVolumeSource: endpoints=1+s path=2+s readOnly=3b endpointsNamespace=4*s
GlusterfsVolumeSource: endpoints=1+s path=2+s readOnly=3b
HTTPGetAction: path=1s port=2+o host=3s scheme=4s httpHeaders=5[]HTTPHeader
HTTPHeader: name=1+s value=2+s
HostAlias: ip=1+s hostnames=2[]s
HostIP: ip=1+s
HostPathVolumeSource: path=1+s type=2*s
ISCSIPersistentVolumeSource: targetPortal=1+s iqn=2+s lun=3+i iscsiInterface=4s fsType=5s readOnly=6b portals=7[]s
  chapAuthDiscovery=8b chapAuthSession=11b secretRef=10*SecretReference initiatorName=12*s
ISCSIVolumeSource: targetPortal=1+s iqn=2+s lun=3+i iscsiInterface=4s fsType=5s readOnly=6b portals=7[]s
  chapAuthDiscovery=8b chapAuthSession=11b secretRef=10*LocalObjectReference initiatorName=12*s
ImageVolumeSource: reference=1s pullPolicy=2s
ImageVolumeStatus: imageRef=1s
KeyToPath: key=1+s path=2+s mode=3*i
Lifecycle: postStart=1*LifecycleHandler preStop=2*LifecycleHandler stopSignal=3*s
LifecycleHandler: exec=1*ExecAction httpGet=2*HTTPGetAction tcpSocket=3*TCPSocketAction sleep=4*SleepAction
LimitRange: metadata=1+meta.ObjectMeta spec=2+LimitRangeSpec
LimitRangeItem: type=1+s max=2{}q min=3{}q default=4{}q defaultRequest=5{}q maxLimitRequestRatio=6{}q
LimitRangeSpec: limits=1+[]LimitRangeItem
LinuxContainerUser: uid=1+i gid=2+i supplementalGroups=3[]i
LoadBalancerIngress: ip=1s hostname=2s ipMode=3*s ports=4[]PortStatus
LoadBalancerStatus: ingress=1[]LoadBalancerIngress
LocalObjectReference: name=1s
LocalVolumeSource: path=1+s fsType=2*s
ModifyVolumeStatus: targetVolumeAttributesClassName=1s status=2+s
NFSVolumeSource: server=1+s path=2+s readOnly=3b
Namespace: metadata=1+meta.ObjectMeta spec=2+NamespaceSpec status=3+NamespaceStatus
NamespaceCondition: type=1+s status=2+s lastTransitionTime=4+t reason=5s message=6s
NamespaceSpec: finalizers=1[]s
NamespaceStatus: phase=1s conditions=2[]NamespaceCondition@type%type
Node: metadata=1+meta.ObjectMeta spec=2+NodeSpec status=3+NodeStatus
NodeAddress: type=1+s address=2+s
NodeAffinity: requiredDuringSchedulingIgnoredDuringExecution=1*NodeSelector
  preferredDuringSchedulingIgnoredDuringExecution=2[]PreferredSchedulingTerm
NodeAllocatableResourceClaimStatus: resourceClaimName=1+s containers=2[]s%set resources=3+{}q
NodeCondition: type=1+s status=2+s lastHeartbeatTime=3+t lastTransitionTime=4+t reason=5s message=6s
NodeConfigSource: configMap=2*ConfigMapNodeConfigSource
NodeConfigStatus: assigned=1*NodeConfigSource active=2*NodeConfigSource lastKnownGood=3*NodeConfigSource error=4s
NodeDaemonEndpoints: kubeletEndpoint=1+DaemonEndpoint
NodeFeatures: supplementalGroupsPolicy=1*b
NodeRuntimeHandler: name=1+s features=2*NodeRuntimeHandlerFeatures
NodeRuntimeHandlerFeatures: recursiveReadOnlyMounts=1*b userNamespaces=2*b
NodeSelector: nodeSelectorTerms=1+[]NodeSelectorTerm
NodeSelectorRequirement: key=1+s operator=2+s values=3[]s
NodeSelectorTerm: matchExpressions=1[]NodeSelectorRequirement matchFields=2[]NodeSelectorRequirement
NodeSpec: podCIDR=1s podCIDRs=7[]s@%set providerID=3s unschedulable=4b taints=5[]Taint configSource=6*NodeConfigSource
  externalID=2s
NodeStatus: capacity=1{}q allocatable=2{}q phase=3s conditions=4[]NodeCondition@type%type
  addresses=5[]NodeAddress@type%type daemonEndpoints=6+NodeDaemonEndpoints nodeInfo=7+NodeSystemInfo
  images=8[]ContainerImage volumesInUse=9[]s volumesAttached=10[]AttachedVolume config=11*NodeConfigStatus
  runtimeHandlers=12[]NodeRuntimeHandler features=13*NodeFeatures declaredFeatures=14[]s
NodeSwapStatus: capacity=1*i
NodeSystemInfo: machineID=1+s systemUUID=2+s bootID=3+s kernelVersion=4+s osImage=5+s containerRuntimeVersion=6+s
  kubeletVersion=7+s kubeProxyVersion=8+s operatingSystem=9+s architecture=10+s swap=11*NodeSwapStatus
ObjectFieldSelector: apiVersion=1s fieldPath=2+s
ObjectReference: kind=1s namespace=2s name=3s uid=4s apiVersion=5s resourceVersion=6s fieldPath=7s
PersistentVolume: metadata=1+meta.ObjectMeta spec=2+PersistentVolumeSpec status=3+PersistentVolumeStatus
PersistentVolumeClaim: metadata=1+meta.ObjectMeta spec=2+PersistentVolumeClaimSpec
  status=3+PersistentVolumeClaimStatus
PersistentVolumeClaimCondition: type=1+s status=2+s lastProbeTime=3+t lastTransitionTime=4+t reason=5s message=6s
PersistentVolumeClaimSpec: accessModes=1[]s selector=4*meta.LabelSelector resources=2+VolumeResourceRequirements
  volumeName=3s storageClassName=5*s volumeMode=6*s dataSource=7*TypedLocalObjectReference
  dataSourceRef=8*TypedObjectReference volumeAttributesClassName=9*s
PersistentVolumeClaimStatus: phase=1s accessModes=2[]s capacity=3{}q
  conditions=4[]PersistentVolumeClaimCondition@type%type allocatedResources=5{}q allocatedResourceStatuses=7{}s
  currentVolumeAttributesClassName=8*s modifyVolumeStatus=9*ModifyVolumeStatus
PersistentVolumeClaimTemplate: metadata=1+meta.ObjectMeta spec=2+PersistentVolumeClaimSpec
PersistentVolumeClaimVolumeSource: claimName=1+s readOnly=2b
PersistentVolumeSource: gcePersistentDisk=1*GCEPersistentDiskVolumeSource
  awsElasticBlockStore=2*AWSElasticBlockStoreVolumeSource hostPath=3*HostPathVolumeSource
  glusterfs=4*GlusterfsPersistentVolumeSource nfs=5*NFSVolumeSource rbd=6*RBDPersistentVolumeSource
  iscsi=7*ISCSIPersistentVolumeSource cinder=8*CinderPersistentVolumeSource cephfs=9*CephFSPersistentVolumeSource
  fc=10*FCVolumeSource flocker=11*FlockerVolumeSource flexVolume=12*FlexPersistentVolumeSource
  azureFile=13*AzureFilePersistentVolumeSource vsphereVolume=14*VsphereVirtualDiskVolumeSource
  quobyte=15*QuobyteVolumeSource azureDisk=16*AzureDiskVolumeSource
  photonPersistentDisk=17*PhotonPersistentDiskVolumeSource portworxVolume=18*PortworxVolumeSource
  scaleIO=19*ScaleIOPersistentVolumeSource local=20*LocalVolumeSource storageos=21*StorageOSPersistentVolumeSource
  csi=22*CSIPersistentVolumeSource
PersistentVolumeSpec: capacity=1{}q .persistentVolumeSource=2PersistentVolumeSource accessModes=3[]s
  claimRef=4*ObjectReference persistentVolumeReclaimPolicy=5s storageClassName=6s mountOptions=7[]s volumeMode=8*s
  nodeAffinity=9*VolumeNodeAffinity volumeAttributesClassName=10*s
PersistentVolumeStatus: phase=1s message=2s reason=3s lastPhaseTransitionTime=4*t
PhotonPersistentDiskVolumeSource: pdID=1+s fsType=2s
Pod: metadata=1+meta.ObjectMeta spec=2+PodSpec status=3+PodStatus
PodAffinity: requiredDuringSchedulingIgnoredDuringExecution=1[]PodAffinityTerm
  preferredDuringSchedulingIgnoredDuringExecution=2[]WeightedPodAffinityTerm
PodAffinityTerm: labelSelector=1*meta.LabelSelector namespaces=2[]s topologyKey=3+s
  namespaceSelector=4*meta.LabelSelector matchLabelKeys=5[]s mismatchLabelKeys=6[]s
PodAntiAffinity: requiredDuringSchedulingIgnoredDuringExecution=1[]PodAffinityTerm
  preferredDuringSchedulingIgnoredDuringExecution=2[]WeightedPodAffinityTerm
PodCertificateProjection: signerName=1s keyType=2s maxExpirationSeconds=3*i credentialBundlePath=4s keyPath=5s
  certificateChainPath=6s userAnnotations=7{}s
PodCondition: type=1+s observedGeneration=7i status=2+s lastProbeTime=3+t lastTransitionTime=4+t reason=5s message=6s
PodDNSConfig: nameservers=1[]s searches=2[]s options=3[]PodDNSConfigOption
PodDNSConfigOption: name=1s value=2*s
PodExtendedResourceClaimStatus: requestMappings=1+[]ContainerExtendedResourceRequest resourceClaimName=2+s
PodIP: ip=1+s
PodOS: name=1+s
PodReadinessGate: conditionType=1+s
PodResourceClaim: name=1+s resourceClaimName=3*s resourceClaimTemplateName=4*s
PodResourceClaimStatus: name=1+s resourceClaimName=2*s
PodSchedulingGate: name=1+s
PodSchedulingGroup: podGroupName=1*s
PodSecurityContext: seLinuxOptions=1*SELinuxOptions windowsOptions=8*WindowsSecurityContextOptions runAsUser=2*i
  runAsGroup=6*i runAsNonRoot=3*b supplementalGroups=4[]i supplementalGroupsPolicy=12*s fsGroup=5*i sysctls=7[]Sysctl
  fsGroupChangePolicy=9*s seccompProfile=10*SeccompProfile appArmorProfile=11*AppArmorProfile seLinuxChangePolicy=13*s
PodSpec: volumes=1[]Volume@name!%name initContainers=20[]Container@name%name containers=2+[]Container@name%name
  ephemeralContainers=34[]EphemeralContainer@name%name restartPolicy=3s terminationGracePeriodSeconds=4*i
  activeDeadlineSeconds=5*i dnsPolicy=6s nodeSelector=7{}s%atomic serviceAccountName=8s serviceAccount=9s
  automountServiceAccountToken=21*b nodeName=10s hostNetwork=11b hostPID=12b hostIPC=13b shareProcessNamespace=27*b
  securityContext=14*PodSecurityContext imagePullSecrets=15[]LocalObjectReference@name%name hostname=16s subdomain=17s
  affinity=18*Affinity schedulerName=19s tolerations=22[]Toleration hostAliases=23[]HostAlias@ip%ip
  priorityClassName=24s priority=25*i dnsConfig=26*PodDNSConfig readinessGates=28[]PodReadinessGate
  runtimeClassName=29*s enableServiceLinks=30*b preemptionPolicy=31*s overhead=32{}q
  topologySpreadConstraints=33[]TopologySpreadConstraint@topologyKey%topologyKey,whenUnsatisfiable
  setHostnameAsFQDN=35*b os=36*PodOS hostUsers=37*b schedulingGates=38[]PodSchedulingGate@name%name
  resourceClaims=39[]PodResourceClaim@name!%name resources=40*ResourceRequirements hostnameOverride=41*s
  schedulingGroup=43*PodSchedulingGroup
PodStatus: observedGeneration=17i phase=1s conditions=2[]PodCondition@type%type message=3s reason=4s
  nominatedNodeName=11s hostIP=5s hostIPs=16[]HostIP@ip podIP=6s podIPs=12[]PodIP@ip%ip startTime=7*t
  initContainerStatuses=10[]ContainerStatus containerStatuses=8[]ContainerStatus qosClass=9s
  ephemeralContainerStatuses=13[]ContainerStatus resize=14s
  resourceClaimStatuses=15[]PodResourceClaimStatus@name!%name
  extendedResourceClaimStatus=18*PodExtendedResourceClaimStatus allocatedResources=19{}q
  resources=20*ResourceRequirements nodeAllocatableResourceClaimStatuses=21[]NodeAllocatableResourceClaimStatus
PodTemplate: metadata=1+meta.ObjectMeta template=2+PodTemplateSpec
PodTemplateSpec: metadata=1+meta.ObjectMeta spec=2+PodSpec
PortStatus: port=1+i protocol=2+s error=3*s
PortworxVolumeSource: volumeID=1+s fsType=2s readOnly=3b
PreferredSchedulingTerm: weight=1+i preference=2+NodeSelectorTerm
Probe: .handler=1ProbeHandler initialDelaySeconds=2i timeoutSeconds=3i periodSeconds=4i successThreshold=5i
  failureThreshold=6i terminationGracePeriodSeconds=7*i
ProbeHandler: exec=1*ExecAction httpGet=2*HTTPGetAction tcpSocket=3*TCPSocketAction grpc=4*GRPCAction
ProjectedVolumeSource: sources=1+[]VolumeProjection defaultMode=2*i
QuobyteVolumeSource: registry=1+s volume=2+s readOnly=3b user=4s group=5s tenant=6s
RBDPersistentVolumeSource: monitors=1+[]s image=2+s fsType=3s pool=4s user=5s keyring=6s secretRef=7*SecretReference
  readOnly=8b
RBDVolumeSource: monitors=1+[]s image=2+s fsType=3s pool=4s user=5s keyring=6s secretRef=7*LocalObjectReference
  readOnly=8b
ReplicationController: metadata=1+meta.ObjectMeta spec=2+ReplicationControllerSpec
  status=3+ReplicationControllerStatus
ReplicationControllerCondition: type=1+s status=2+s lastTransitionTime=3+t reason=4s message=5s
ReplicationControllerSpec: replicas=1*i minReadySeconds=4i selector=2{}s%atomic template=3*PodTemplateSpec
ReplicationControllerStatus: replicas=1+i fullyLabeledReplicas=2i readyReplicas=4i availableReplicas=5i
  observedGeneration=3i conditions=6[]ReplicationControllerCondition@type%type
ResourceClaim: name=1+s request=2s
ResourceFieldSelector: containerName=1s resource=2+s divisor=3+q
ResourceHealth: resourceID=1+s health=2s message=6*s
ResourceQuota: metadata=1+meta.ObjectMeta spec=2+ResourceQuotaSpec status=3+ResourceQuotaStatus
ResourceQuotaSpec: hard=1{}q scopes=2[]s scopeSelector=3*ScopeSelector
ResourceQuotaStatus: hard=1{}q used=2{}q
ResourceRequirements: limits=1{}q requests=2{}q claims=3[]ResourceClaim%name
ResourceStatus: name=1+s resources=2[]ResourceHealth%resourceID
SELinuxOptions: user=1s role=2s type=3s level=4s
ScaleIOPersistentVolumeSource: gateway=1+s system=2+s secretRef=3+*SecretReference sslEnabled=4b protectionDomain=5s
  storagePool=6s storageMode=7s volumeName=8s fsType=9s readOnly=10b
ScaleIOVolumeSource: gateway=1+s system=2+s secretRef=3+*LocalObjectReference sslEnabled=4b protectionDomain=5s
  storagePool=6s storageMode=7s volumeName=8s fsType=9s readOnly=10b
ScopeSelector: matchExpressions=1[]ScopedResourceSelectorRequirement
ScopedResourceSelectorRequirement: scopeName=1+s operator=2+s values=3[]s
SeccompProfile: type=1+s localhostProfile=2*s
Secret: metadata=1+meta.ObjectMeta immutable=5*b data=2{}y stringData=4{}s type=3s
SecretEnvSource: .localObjectReference=1LocalObjectReference optional=2*b
SecretKeySelector: .localObjectReference=1LocalObjectReference key=2+s optional=3*b
SecretProjection: .localObjectReference=1LocalObjectReference items=2[]KeyToPath optional=4*b
SecretReference: name=1s namespace=2s
SecretVolumeSource: secretName=1s items=2[]KeyToPath defaultMode=3*i optional=4*b
SecurityContext: capabilities=1*Capabilities privileged=2*b seLinuxOptions=3*SELinuxOptions
  windowsOptions=10*WindowsSecurityContextOptions runAsUser=4*i runAsGroup=8*i runAsNonRoot=5*b
  readOnlyRootFilesystem=6*b allowPrivilegeEscalation=7*b procMount=9*s seccompProfile=11*SeccompProfile
  appArmorProfile=12*AppArmorProfile
Service: metadata=1+meta.ObjectMeta spec=2+ServiceSpec status=3+ServiceStatus
ServiceAccount: metadata=1+meta.ObjectMeta secrets=2[]ObjectReference@name%name
  imagePullSecrets=3[]LocalObjectReference automountServiceAccountToken=4*b
ServiceAccountTokenProjection: audience=1s expirationSeconds=2*i path=3+s
ServicePort: name=1s protocol=2s appProtocol=6*s port=3+i targetPort=4+o nodePort=5i
ServiceSpec: ports=1[]ServicePort@port%port,protocol selector=2{}s%atomic clusterIP=3s clusterIPs=18[]s type=4s
  externalIPs=5[]s sessionAffinity=7s loadBalancerIP=8s loadBalancerSourceRanges=9[]s externalName=10s
  externalTrafficPolicy=11s healthCheckNodePort=12i publishNotReadyAddresses=13b
  sessionAffinityConfig=14*SessionAffinityConfig ipFamilies=19[]s ipFamilyPolicy=17*s
  allocateLoadBalancerNodePorts=20*b loadBalancerClass=21*s internalTrafficPolicy=22*s trafficDistribution=23*s
ServiceStatus: loadBalancer=1+LoadBalancerStatus conditions=2[]meta.Condition@type%type
SessionAffinityConfig: clientIP=1*ClientIPConfig
SleepAction: seconds=1+i
StorageOSPersistentVolumeSource: volumeName=1s volumeNamespace=2s fsType=3s readOnly=4b secretRef=5*ObjectReference
StorageOSVolumeSource: volumeName=1s volumeNamespace=2s fsType=3s readOnly=4b secretRef=5*LocalObjectReference
Sysctl: name=1+s value=2+s
TCPSocketAction: port=1+o host=2s
Taint: key=1+s value=2s effect=3+s timeAdded=4*t
Toleration: key=1s operator=2s value=3s effect=4s tolerationSeconds=5*i
TopologySelectorLabelRequirement: key=1+s values=2+[]s
TopologySelectorTerm: matchLabelExpressions=1[]TopologySelectorLabelRequirement
TopologySpreadConstraint: maxSkew=1+i topologyKey=2+s whenUnsatisfiable=3+s labelSelector=4*meta.LabelSelector
  minDomains=5*i nodeAffinityPolicy=6*s nodeTaintsPolicy=7*s matchLabelKeys=8[]s
TypedLocalObjectReference: apiGroup=1+*s kind=2+s name=3+s
TypedObjectReference: apiGroup=1+*s kind=2+s name=3+s namespace=4*s
Volume: name=1+s .volumeSource=2VolumeSource
VolumeDevice: name=1+s devicePath=2+s
VolumeMount: name=1+s readOnly=2b recursiveReadOnly=7*s mountPath=3+s subPath=4s mountPropagation=5*s subPathExpr=6s
VolumeMountStatus: name=1+s mountPath=2+s readOnly=3b recursiveReadOnly=4*s volumeStatus=5*VolumeStatus
VolumeNodeAffinity: required=1*NodeSelector
VolumeProjection: secret=1*SecretProjection downwardAPI=2*DownwardAPIProjection configMap=3*ConfigMapProjection
  serviceAccountToken=4*ServiceAccountTokenProjection clusterTrustBundle=5*ClusterTrustBundleProjection
  podCertificate=6*PodCertificateProjection
VolumeResourceRequirements: limits=1{}q requests=2{}q
VolumeSource: hostPath=1*HostPathVolumeSource emptyDir=2*EmptyDirVolumeSource
  gcePersistentDisk=3*GCEPersistentDiskVolumeSource awsElasticBlockStore=4*AWSElasticBlockStoreVolumeSource
  gitRepo=5*GitRepoVolumeSource secret=6*SecretVolumeSource nfs=7*NFSVolumeSource iscsi=8*ISCSIVolumeSource
  glusterfs=9*GlusterfsVolumeSource persistentVolumeClaim=10*PersistentVolumeClaimVolumeSource rbd=11*RBDVolumeSource
  flexVolume=12*FlexVolumeSource cinder=13*CinderVolumeSource cephfs=14*CephFSVolumeSource
  flocker=15*FlockerVolumeSource downwardAPI=16*DownwardAPIVolumeSource fc=17*FCVolumeSource
  azureFile=18*AzureFileVolumeSource configMap=19*ConfigMapVolumeSource
  vsphereVolume=20*VsphereVirtualDiskVolumeSource quobyte=21*QuobyteVolumeSource azureDisk=22*AzureDiskVolumeSource
  photonPersistentDisk=23*PhotonPersistentDiskVolumeSource projected=26*ProjectedVolumeSource
  portworxVolume=24*PortworxVolumeSource scaleIO=25*ScaleIOVolumeSource storageos=27*StorageOSVolumeSource
  csi=28*CSIVolumeSource ephemeral=29*EphemeralVolumeSource image=30*ImageVolumeSource
VolumeStatus: image=1*ImageVolumeStatus
VsphereVirtualDiskVolumeSource: volumePath=1+s fsType=2s storagePolicyName=3s storagePolicyID=4s
WeightedPodAffinityTerm: weight=1+i podAffinityTerm=2+PodAffinityTerm
WindowsSecurityContextOptions: gmsaCredentialSpecName=1*s gmsaCredentialSpec=2*s runAsUserName=3*s hostProcess=4*b
"""
